"""Help of a command: examples, the options that matter most, then all others, wrapped to the terminal's width."""

import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from rexnet.cli.fields import Option, default_of, options_of
from rexnet.options import values_of

_NAMES = {int: "N", float: "X", str: "TEXT"}
_COLUMN = 26
_WIDEST = 100


def print_help(
    command: str,
    kind: type,
    *,
    base: Any = None,
    decided: Mapping[str, str] | None = None,
    examples: Sequence[str] = (),
    first: Collection[str] = (),
) -> None:
    """Print the help of a command. `base` provides the defaults, or maps an option to the text shown instead; `first`
    are the options that matter most.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    options = list(options_of(kind))
    values = values_of(base) if base is not None else {}
    arguments = [option for option in options if option.argument.positional]
    rest = [option for option in options if not option.argument.positional]

    def show(title: str, members: Sequence[Option]) -> None:
        if members:
            print("\n" + textwrap.fill(f"{title}:", width))
        for option in members:
            default = (decided or {}).get(option.name) or _default_text(option, values)
            _print_entry(_head(option), f"{option.help} ({default})".lstrip(), width)

    print("\n".join(textwrap.wrap(f"usage: rexnet {command} [OPTIONS] {_usage(arguments)}".rstrip(), width)))
    print("\n" + textwrap.fill(" ".join((kind.__doc__ or "").split()), width))
    if examples:
        print("\nexamples:\n" + "\n".join(f"  {example}" for example in examples))
    show("arguments", arguments)
    show("options that matter most", [option for name in first for option in rest if option.name == name])
    others = [option for option in rest if option.name not in first]
    for group, members in groupby(others, key=lambda option: option.group):
        text = " ".join((group.__doc__ or "").split()).rstrip(".")
        show("other options" if first and group is kind else "options" if group is kind else text, list(members))
    _print_entry("-h, --help", "Show this help.", width)


def _usage(arguments: Sequence[Option]) -> str:
    return " ".join(option.shown if option.required else f"[{option.shown.strip('[]')}]" for option in arguments)


def _print_entry(head: str, text: str, width: int) -> None:
    start = f"  {head}"
    indent = " " * min(_COLUMN, width // 4)
    if len(start) + 2 > len(indent):
        print("\n".join(textwrap.wrap(start, width, subsequent_indent="    ", break_on_hyphens=False)))
        start = indent
    print(
        textwrap.fill(
            text, width, initial_indent=start.ljust(len(indent)), subsequent_indent=indent, break_on_hyphens=False
        )
    )


def _head(option: Option) -> str:
    """Return the option's names and a placeholder for its value."""
    if option.argument.positional:
        return option.shown
    if option.kind is bool:
        return f"{option.flag}, --no-{option.flag[2:]}"
    names = ", ".join((option.flag, *option.argument.aliases))
    return f"{names} {option.argument.metavar or _shape(option.kind)}"


def _shape(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) in (Union, UnionType):
        return "|".join(_shape(each) for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is tuple:
        types = get_args(kind)
        return f"{_shape(types[0])} ..." if types[-1] is Ellipsis else " ".join(map(_shape, types))
    return _NAMES.get(kind, "TEXT")


def _default_text(option: Option, values: Mapping[str, Any]) -> str:
    if option.name not in values and option.required:
        return "required"
    value = values.get(option.name, None if option.required else default_of(option.field))
    if isinstance(value, bool):
        return f"default: {'yes' if value else 'no'}"
    if isinstance(value, tuple):
        return f"default: {' '.join(map(str, value)) or 'none'}"
    return f"default: {'none' if value == '' else value}"
