from pathlib import Path

import pytest

from rexnet.deploy import engine_choice


@pytest.fixture(scope="session")
def remembered_choices(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home") / "engines"


@pytest.fixture(autouse=True)
def no_choices_of_the_user(monkeypatch, remembered_choices):
    """Choices of one test help the next, and those in the home folder are neither read nor written."""
    monkeypatch.setattr(engine_choice, "cache_folder", lambda: remembered_choices)
    monkeypatch.setattr(engine_choice, "machine_load", lambda: 0.0)
