import pytest

import render


@pytest.mark.seconds
def test_tables_are_those_of_results():
    text = "".join(page.read_text() for page in render.PAGES)
    assert all(f"<!-- table {name} -->" in text for name in render.TABLES)
    assert render.render(text) == text, "run python benchmarks/render.py"


@pytest.mark.seconds
def test_render_replaces_a_stale_table():
    stale = "before\n<!-- table models -->\n| 1 |\n<!-- end -->\nafter"
    fresh = render.render(stale)
    assert "| 1 |" not in fresh and "`rexnet_100` | 4.80 | 0.398 | 77.9" in fresh
    assert fresh.startswith("before") and fresh.endswith("after")
