import render


def test_the_pages_tables_are_those_of_results():
    texts = [page.read_text() for page in render.PAGES]
    assert all(any(f"<!-- table {name} -->" in text for text in texts) for name in render.TABLES)
    assert [render.render(text) for text in texts] == texts, "run python benchmarks/render.py"


def test_render_replaces_a_stale_table():
    stale = "before\n<!-- table models -->\n| 1 |\n<!-- end -->\nafter"
    fresh = render.render(stale)
    assert "| 1 |" not in fresh and "`rexnet_100` | 4.80 | 0.398 | 77.9" in fresh
    assert fresh.startswith("before") and fresh.endswith("after")
