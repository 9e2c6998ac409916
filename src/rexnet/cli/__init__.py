"""The command line: commands and the functions that run them. Only this package prints."""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from rexnet._version import __version__
from rexnet.cli import classification, data, deploy, detection, search, study
from rexnet.cli.options import fail
from rexnet.cli.tables import write_any_character
from rexnet.errors import BadImageError, OptionError
from rexnet.processes import is_main_process

GROUPS: dict[str, dict[str, Callable[[Sequence[str]], None]]] = {
    "classify images": {
        "train": classification.train,
        "validate": classification.validate,
        "predict": classification.predict,
        "report": classification.report,
    },
    "find objects": {
        "detect train": detection.train,
        "detect validate": detection.validate,
        "detect predict": detection.predict,
        "detect convert": detection.convert,
        "detect demo": detection.demo,
    },
    "look at data": {
        "data check": data.check,
        "data shard": data.shard,
    },
    "use a trained network": {
        "export": deploy.export,
        "quantize": deploy.quantize,
        "serve": deploy.serve,
        "card": deploy.card,
    },
    "choose a network": {
        "models": deploy.models,
        "bench": deploy.bench,
        "fit-budget": deploy.fit_budget,
    },
    "repeat and extend the paper": {
        "study rank": study.rank,
        "study depth": study.depth,
        "study factors": study.factors,
        "study spectra": study.spectra,
        "study advise": study.advise,
        "study rewrite": study.rewrite,
        "search run": search.run,
        "search report": search.report,
        "search export": search.export,
    },
}
COMMANDS = {name: function for commands in GROUPS.values() for name, function in commands.items()}


_HELP = ("--help", "-h", "help")


def usage(first: str = "") -> str:
    """Return the commands by group, or the subcommands of `first`."""
    lines = ["usage: rexnet COMMAND ..." if not first else f"usage: rexnet {first} COMMAND ..."]
    for title, commands in GROUPS.items():
        shown = {name: command for name, command in commands.items() if name.startswith(f"{first} " if first else "")}
        if shown:
            lines += ["", f"{title}:"] if not first else [""]
            lines += [f"  rexnet {name:<15} {command.__doc__}" for name, command in shown.items()]
    return "\n".join([*lines, "", "rexnet COMMAND --help lists the options of a command."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit with code 2 for an unknown command or option and for a value that is not allowed, and with
    1 for every other error that a user can fix; both print one sentence."""
    write_any_character()
    word, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if rest and f"{word} {rest[0]}" in COMMANDS:
        word, *rest = f"{word} {rest[0]}", *rest[1:]
    grouped = any(name.startswith(f"{word} ") for name in COMMANDS)
    if word == "help" and rest:
        word, *rest = *rest, "--help"
    if word in _HELP:
        _run(partial(print, usage(), flush=True))
    elif grouped and (not rest or rest[0] in _HELP):
        _run(partial(print, usage(word), flush=True))
    elif word == "--version":
        print(__version__)
    elif word in COMMANDS:
        _run(partial(COMMANDS[word], rest))
    else:
        known = [name for name in COMMANDS if name.startswith(f"{word} " if grouped else "")]
        asked = f"{word} {rest[0]}" if grouped else word
        close = get_close_matches(asked, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}"
        fail(f"there is no command {asked!r}; {hint}", code=2)


def _run(command: Callable[[], None]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        # Of several processes only the main one logs progress; each one logs its own warnings.
        logging.getLogger("rexnet").setLevel(logging.INFO if is_main_process() else logging.WARNING)
        command()
    except KeyboardInterrupt as stop:
        fail(str(stop) or "stopped", code=getattr(stop, "exit_code", 130))
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has closed it; Python would print a second error at exit.
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        bad_image = isinstance(error, BadImageError)
        remedy = "; --bad-image skip skips such files, rexnet data check finds them all" if bad_image else ""
        fail(
            re.sub(r"\s*\n\s*", " ", _sentence(error).strip()) + remedy, code=2 if isinstance(error, OptionError) else 1
        )
    except RuntimeError as error:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        fail("the device's memory is full; a smaller --batch-size or --image-size needs less", code=1)


def _sentence(error: ValueError | OSError) -> str:
    """Return an error's text; for an OSError the file and the reason, without the error number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    file = "" if error.filename is None else f"{error.filename}: "
    return f"{file}{error.strerror.lower()}"
