"""Parse a command's arguments into a settings dataclass, with hints for removed options and those of other packages.
The arguments are parsed once; values that are not given come from the recipe, once that is known.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, get_type_hints

from rexnet.cli.fields import Option, default_of, options_of
from rexnet.cli.help import print_help
from rexnet.errors import OptionError

Config = TypeVar("Config")
Given = dict[str, Any]
_HELP = ("-h", "--help")


def fail(sentence: str, *, code: int) -> NoReturn:
    """End the program with an error message and exit code."""
    print(f"rexnet: {sentence}", file=sys.stderr)
    sys.exit(code)


def read_options(
    command: str,
    kind: type[Config],
    arguments: Sequence[str],
    *,
    start: Callable[[Given], Config] | None = None,
    show_help: Callable[[Given], None] | None = None,
) -> Config:
    """Return `kind` from the arguments of a command. `start` returns the settings that the given values override. An
    invalid value ends the program with an error; --help prints the help and ends it.
    """
    check_removed(command, arguments)
    options = list(options_of(kind))
    known = {name for option in options for name in (option.flag, *option.argument.aliases)}
    hints = [*_without_option(command, options, arguments), *other_names(arguments, known)]
    if hints := hints or [*_model_as_option(command, options, arguments)]:
        raise OptionError("; ".join(hints))
    wants_help = any(argument in _HELP for argument in arguments)
    given = read_given(command, options, arguments, lenient=wants_help)
    if wants_help:
        (show_help or (lambda given: print_help(command, kind)))(given)
        sys.exit()
    base = start(given) if start else None
    missing = [option.shown for option in options if option.required and base is None and option.name not in given]
    if missing:
        fail(f"{command} needs {', '.join(missing)}; rexnet {command} --help lists the options", code=2)
    try:
        config = build(kind, given, base)
    except OptionError:
        raise
    except ValueError as error:  # options that exclude each other
        fail(str(error), code=2)
    if check := getattr(config, "check", None):  # before the command imports torch
        check()
    return config


def build(kind: type[Config], given: Given, base: Config | None = None) -> Config:
    """Return `kind` with the given values, and the values of `base`, or else the defaults, for all others."""
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        if is_dataclass(hints[field.name]):
            group: Any = hints[field.name]
            default = getattr(base, field.name) if base is not None else default_of(field)
            values[field.name] = build(group, given, default)
        elif field.name in given:
            values[field.name] = given[field.name]
        elif base is not None:
            values[field.name] = getattr(base, field.name)
    return kind(**values)


def read_given(command: str, options: Sequence[Option], arguments: Sequence[str], *, lenient: bool = False) -> Given:
    """Return the given values by field. `lenient`: skip those that cannot be parsed, for --help."""
    parser = _Parser(prog=f"rexnet {command}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for option in options:
        if option.argument.positional:
            parser.add_argument(option.name, nargs=option.count, metavar=option.shown)
        elif option.kind is bool:
            parser.add_argument(option.flag, *option.argument.aliases, dest=option.name, action="store_true")
            parser.add_argument(f"--no-{option.flag[2:]}", dest=option.name, action="store_false")
        else:
            parser.add_argument(option.flag, *option.argument.aliases, dest=option.name, nargs=option.count)
    for positional in parser._positionals._group_actions if lenient else ():
        positional.nargs = "*" if positional.nargs in ("*", "+") else "?"
    known = [argument for argument in _in_full(options, arguments) if argument not in _HELP or not lenient]
    try:
        found, unknown = parser.parse_known_intermixed_args(known)
    except OptionError:
        if lenient:
            return {}
        raise
    if unknown and not lenient:
        raise OptionError(_unknown(command, options, unknown))
    by_name = {option.name: option for option in options}
    given: Given = {}
    for name, words in vars(found).items():
        try:
            if words or isinstance(words, bool | str) or by_name[name].argument.read:
                given[name] = by_name[name].read(words)
        except OptionError:
            if not lenient:
                raise
    return given


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        needs = message.replace("the following arguments are required: ", "missing: ").removeprefix("argument ")
        raise OptionError(f"{self.prog.removeprefix('rexnet ')}: {needs}; {self.prog} --help lists the options")


def _in_full(options: Sequence[Option], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with dashes in option names, and with the implied value of options that were given without
    one."""
    bare = {
        name: option for option in options if option.argument.bare for name in (option.flag, *option.argument.aliases)
    }
    full = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        name, equals, value = argument.partition("=")
        full.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
        if (option := bare.get(argument)) and not _can_read(option, following):
            others = {option.flag, *option.argument.aliases} - {argument}
            if others.intersection(each.partition("=")[0] for each in arguments):
                full.pop()  # the option's other name carries the value
            else:
                full[-1] += f"={option.argument.bare}"
    return full


def _can_read(option: Option, word: str) -> bool:
    try:
        return not word.startswith("-") and option.read(word) is not None
    except OptionError:
        return False


def _without_option(command: str, options: Sequence[Option], arguments: Sequence[str]) -> Iterator[str]:
    """Yield a hint for every positional argument that was given as an option, as in train --data FOLDER."""
    positional = {option.flag: option.shown for option in options if option.argument.positional}
    given = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = argument.partition("=")
        if name in positional:
            given[name] = (
                shlex.quote(value or following) if value or not following.startswith("-") else positional[name]
            )
    usage = " ".join(given.get(name) or shown for name, shown in positional.items())
    for name in given:
        yield f"{name}: here {positional[name]} is a positional argument, as in rexnet {command} {usage}"


def _model_as_option(command: str, options: Sequence[Option], arguments: Sequence[str]) -> Iterator[str]:
    """Yield a hint for predict --model best.pt, where --model is the network of a file that does not name it."""
    if {"MODEL", "--model"} <= {option.shown if option.argument.positional else option.flag for option in options}:
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
            name, _, value = argument.partition("=")
            if name == "--model" and (value or following).lower().endswith((".pt", ".pth", ".safetensors", ".onnx")):
                model = shlex.quote(value or following)
                yield f"--model: {model} goes first and without an option, as in rexnet {command} {model} ..."


def _unknown(command: str, options: Sequence[Option], unknown: list[str]) -> str:
    """Return the error for unknown arguments, with the closest known option."""
    name = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    if name is None:
        return f"{command} takes no further argument {unknown[0]!r}; rexnet {command} --help lists the options"
    close = get_close_matches(name, [option.flag for option in options if not option.argument.positional], n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else f"rexnet {command} --help lists the options"
    return f"{command} has no option {name}; {hint}"


_REMOVED = {
    (
        "quantize",
        "--fine-tune-epochs",
    ): "int8 networks are no longer fine-tuned; the file is written if it loses at most --max-drop",
    ("train", "--latency-budget-ms"): "rexnet fit-budget --latency-ms MS finds the network, --model trains it",
    ("study rank", "--backend"): "--processes N works on this machine, --address tcp://HOST:8786 on a Dask cluster",
    ("export", "--format=executorch"): "ExecuTorch files are no longer written; write .pt2, which its tools read",
    ("export", "--format=coreml"): "Core ML files are no longer written; write .pt2, which its tools read",
    ("export", "--format=tensorrt"): "TensorRT files are no longer written; write .onnx, which its tools read",
}
"""Replacements by command and option, or option and value."""


def check_removed(command: str, arguments: Sequence[str]) -> None:
    """Raise OptionError with the replacement for an option or value that was removed."""
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, given = argument.partition("=")
        name = name.replace("_", "-")
        for option in (name, f"{name}={given or value}"):
            if option.startswith("--") and (reason := _REMOVED.get((command, option))):
                raise OptionError(f"{option.replace('=', ' ')} was removed: {reason}")


_SIZE = ("--image-size", "--min-size", "--size", "--size-px")
_OUTPUT = ("--output", "--out")
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("--imgsz", "--image-size", "--img-size", "--resolution", "--size"), _SIZE),
    **dict.fromkeys(("--out", "--output", "--output-dir", "--project", "--name"), _OUTPUT),
    **dict.fromkeys(("--lr0", "--learning-rate"), ("--lr",)),
    **dict.fromkeys(("--pretrained", "--checkpoint"), ("--weights",)),
    **dict.fromkeys(("--arch", "--backbone"), ("--model",)),
    **dict.fromkeys(("--width", "--width-mult"), ("--width", "the end of --model, as in rexnet_050")),
    "--batch": ("--batch-size",),
    "--num-epochs": ("--epochs",),
    "--num-workers": ("--workers",),
    "--trials": ("--candidates",),
    "--wd": ("--weight-decay",),
    **dict.fromkeys(("--data", "--data-dir"), ("the folder itself, as the first argument",)),
    "--source": ("the images themselves, after the model",),
    "--num-classes": ("nothing: the classes are those of the data",),
}
"""Options of other packages or commands, and their names here; the first one that the command has is suggested."""


def other_names(arguments: Sequence[str], known: Collection[str]) -> list[str]:
    """Return a hint for every option that has another name here, as "--imgsz: here it is --image-size". The `known`
    options of the command need none.
    """
    given = dict.fromkeys(argument.partition("=")[0].replace("_", "-") for argument in arguments)
    hints = {
        name: [here for here in _OTHER_NAMES[name] if here in known or not here.startswith("--")]
        for name in given
        if name in _OTHER_NAMES.keys() - known
    }
    return [f"{name}: here it is {found[0]}" for name, found in hints.items() if found]
