"""Command-line metadata of a settings field, in addition to its type and docstring."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any


@dataclass(frozen=True, kw_only=True)
class Argument:
    """Metadata for `Annotated[TYPE, Argument(...)]`."""

    metavar: str = ""
    """Name of the value in the help; a positional argument has no other name."""
    positional: bool = False
    recorded: bool = False
    """Not an option: a value that is only stored with the others."""
    help: str = ""
    """Help text instead of the one under the field."""
    aliases: tuple[str, ...] = ()
    """Other names of the same option."""
    bare: str | None = None
    """Value of an option given without a value; None: a value is required."""
    read: Callable[[list[str]], Any] | None = None
    """Parser of an option that takes any number of values, instead of the type."""
    pattern: str | None = None
    """Regular expression of the values that `help` lists."""


def values_of(settings: Any) -> dict[str, Any]:
    """Return the value of every option of a settings dataclass and of its groups, by name."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        values |= values_of(value) if is_dataclass(value) else {field.name: value}
    return values


def positional(metavar: str) -> Argument:
    """Return the metadata of a positional argument."""
    return Argument(metavar=metavar, positional=True)


def _read_resume(words: list[str]) -> bool | str:
    if len(words) > 1:
        raise ValueError(
            f"got {len(words)} folders, {' '.join(words)}; give one, or none to resume the folder of --output"
        )
    return words[0] if words and words != ["auto"] else True


Resume = Annotated[bool | str, Argument(metavar="[DIR]", read=_read_resume)]
Device = Annotated[str, Argument(help="auto, cpu, cuda, cuda:1 or mps.", pattern=r"auto|cpu|cuda(:\d+)?|mps")]
Threads = Annotated[int | None, Argument(help="CPU threads; None leaves the engine's choice.")]
Workers = Annotated[
    int | None, Argument(help="Processes that read images; None: up to 8 with a GPU, none without.", aliases=("-j",))
]
Readers = Annotated[int | None, Argument(help="Processes that read images; None: one per CPU, 0: only the main one.")]
