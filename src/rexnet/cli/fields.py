"""Command-line options of a settings dataclass: a field is an option, and the text under it is its help."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from rexnet.errors import OptionError
from rexnet.options import Argument

_NUMBERS = {int: "a whole number", float: "a number"}


class Option(NamedTuple):
    """One field of a settings dataclass, or of one of its groups."""

    field: Field[Any]
    kind: Any
    """Type without its metadata."""
    argument: Argument
    help: str
    group: type

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """Name in messages."""
        return self.argument.metavar or self.name if self.argument.positional else self.flag

    @property
    def required(self) -> bool:
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def count(self) -> int | str | None:
        """Number of values, as argparse's `nargs`."""
        kind = _without_none(self.kind)
        if self.argument.read:
            return "*"
        if get_origin(kind) is not tuple:
            return "?" if self.argument.positional and not self.required else None
        types = get_args(kind)
        if types[-1] is not Ellipsis:
            return len(types)
        return "+" if self.argument.positional and self.required else "*"

    def read(self, words: list[str] | str | bool) -> Any:
        """Parse the value. Raise OptionError for text that is not of its type."""
        if isinstance(words, bool):
            return words
        if self.argument.read:
            try:
                return self.argument.read(list(words))
            except ValueError as error:
                raise OptionError(f"{self.shown}: {error}") from error
        kind = _without_none(self.kind)
        if get_origin(kind) is not tuple:
            assert isinstance(words, str)
            return self._read_one(words, self.kind)
        if kind is not self.kind and [word.lower() for word in words] == ["none"]:
            return None
        types = get_args(kind)
        each = [types[0]] * len(words) if types[-1] is Ellipsis else types
        return tuple(self._read_one(word, one) for word, one in zip(words, each, strict=True))

    def _read_one(self, word: str, kind: Any) -> Any:
        if self.argument.pattern and not re.fullmatch(self.argument.pattern, word):
            raise OptionError(f"{self.shown} is {word!r}; allowed: {self.argument.help.removesuffix('.')}")
        choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        for choice in choices:
            if choice is type(None) and word.lower() == "none":
                return None
            if get_origin(choice) is Literal and word in get_args(choice):
                return word
        for choice in choices:
            if choice in (int, float, str):
                try:
                    return choice(word)
                except ValueError:
                    pass
        raise OptionError(f"{self.shown} is {word!r}; allowed: {', '.join(_allowed(choices))}")


def options_of(kind: type) -> Iterator[Option]:
    """Yield the options of a settings dataclass and of its groups, in order."""
    hints = get_type_hints(kind, include_extras=True)
    texts = _field_texts(kind)
    for field in fields(kind):
        hint = hints[field.name]
        metadata = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Argument)]
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from options_of(hint)
        else:
            argument = metadata[0] if metadata else Argument()
            if argument.recorded:
                continue
            yield Option(field, hint, argument, texts.get(field.name) or argument.help, kind)


@cache
def _field_texts(kind: type) -> Mapping[str, str]:
    """Return the docstring under each field, own and inherited, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            assert isinstance(base, type)
            (tree,) = ast.parse(dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for above, below in zip(tree.body, tree.body[1:], strict=False):
                match above, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        texts[name] = " ".join(text.split())
    return texts


def default_of(field: Field[Any]) -> Any:
    """Return a field's default."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 else kind


def _allowed(kinds: Sequence[Any]) -> Iterator[str]:
    for kind in kinds:
        if get_origin(kind) is Literal:
            yield from map(str, get_args(kind))
        else:
            yield "None" if kind is type(None) else _NUMBERS.get(kind, "a text")
