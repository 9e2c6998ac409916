"""HTML from Python calls. What is not Markup is text and gets escaped, so that no name can become a tag."""

from html import escape
from typing import final

from rexnet.text import printable

_WITHOUT_END = frozenset({"meta", "link", "img", "wbr"})


@final
class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*parts: object) -> Markup:
    """The parts one after the other; those that are not Markup as text, on one line and in characters that UTF-8 has.

    None is left out.
    """
    return Markup(
        "".join(
            part if isinstance(part, Markup) else escape(printable(str(part))) for part in parts if part is not None
        )
    )


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element around `children`. Underscores in attribute names stand for hyphens, one at the end for nothing
    (`class_`); True makes a bare attribute, None and False none."""
    written = "".join(
        f" {_attribute_name(key)}" + ("" if value is True else f'="{join(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name in _WITHOUT_END else f"{join(*children)}</{name}>"
    return Markup(f"<{name}{written}>{end}")


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
