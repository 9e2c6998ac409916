"""Tables of the rendered pages."""

from rexnet.text import markdown_text


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table without its last line's end."""
    return markdown_text([header, *rows]).rstrip("\n")


def table_if_any(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, or a sentence where it would be empty."""
    return table(header, rows) if rows else "No row yet."
