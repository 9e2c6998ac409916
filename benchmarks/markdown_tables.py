"""Tables of the rendered pages."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table_if_any(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, or a sentence where it would be empty."""
    return table(header, rows) if rows else "No row yet."
