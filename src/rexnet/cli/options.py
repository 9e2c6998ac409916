"""Reading a command's options, and ending with a sentence."""

import io
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, NoReturn


def fail(sentence: str, *, code: int) -> NoReturn:
    """End the program with this sentence and exit code."""
    print(f"rexnet: {sentence}", file=sys.stderr)
    sys.exit(code)


def read_options(command: str, kind: type, arguments: Sequence[str], **more: Any) -> Any:
    """`kind` from the words of a command. A value out of range ends the program with its sentence, like any mistake."""
    import tyro

    from rexnet.cli.removed import check_removed, other_names

    check_removed(command, arguments)
    marks = (tyro.conf.OmitArgPrefixes,)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, prog=f"rexnet {command}", args=arguments, config=marks, **more)
    except SystemExit as stop:
        if sentence := _refusal(stop):
            fail(sentence, code=2)
        sys.stderr.write(said.getvalue())
        if stop.code and (hints := other_names(arguments)):
            fail("; ".join(hints), code=2)
        raise


def read_ahead(command: str, kind: type, arguments: Sequence[str], *, default: Any) -> tuple[Any, list[str]]:
    """What the words ask for beside `default`, and those that are no options, before the options are judged: help and
    suggestions show what the recipe would use, which is looked for in what is asked."""
    known = [word for word in arguments if word not in ("-h", "--help")]
    return read_options(command, kind, known, default=default, return_unknown_args=True)


def _refusal(error: BaseException | None) -> str | None:
    """The sentence of the ValueError of ours that tyro turned into its own message, if there was one."""
    while error is not None:
        if isinstance(error, ValueError) and error.__traceback__ is not None:
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").startswith("rexnet."):
                return str(error)
        error = error.__context__
    return None
