import pytest


@pytest.fixture(autouse=True)
def any_checkout(monkeypatch):
    """Tests run recorders while files are being edited."""
    monkeypatch.setenv("REXNET_CHANGES", "1")
