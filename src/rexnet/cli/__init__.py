"""The command line: a word, its options, the function that does the work. The only module that prints."""

import logging
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from rexnet._version import __version__
from rexnet.cli import card, classification, data, deploy, detection, networks, search, serve, study
from rexnet.cli.options import fail

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": classification.train,
    "validate": classification.validate,
    "predict": classification.predict,
    "export": deploy.export,
    "report": classification.report,
    "card": card.card,
    "quantize": deploy.quantize,
    "serve": serve.serve,
    "detect train": detection.train,
    "detect validate": detection.validate,
    "detect predict": detection.predict,
    "detect convert": detection.convert,
    "detect demo": detection.demo,
    "data check": data.check,
    "data shard": data.shard,
    "study rank": study.rank,
    "study depth": study.depth,
    "study factors": study.factors,
    "study spectra": study.spectra,
    "study advise": study.advise,
    "study rewrite": study.rewrite,
    "search run": search.run,
    "search report": search.report,
    "search export": search.export,
    "bench": deploy.bench,
    "fit-budget": deploy.fit_budget,
    "models": networks.models,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. Exit code 2 for a mistyped command or option and for an option's value that cannot be, 1 for
    all else that a user can mend; both with one sentence."""
    word, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if rest and f"{word} {rest[0]}" in COMMANDS:
        word, *rest = f"{word} {rest[0]}", *rest[1:]
    if word in ("--help", "-h", "help"):
        lines = [f"  rexnet {name:<15} {function.__doc__}" for name, function in COMMANDS.items()]
        more = "rexnet COMMAND --help lists the options of a command."
        print("\n".join(["usage: rexnet COMMAND ...", "", *lines, "", more]))
    elif word == "--version":
        print(__version__)
    elif word in COMMANDS:
        _run(word, rest)
    else:
        close = [name for name in COMMANDS if name.startswith(f"{word} ")] or get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(COMMANDS)}"
        fail(f"there is no command {word!r}; {hint}", code=2)


def _run(word: str, arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        from rexnet.errors import OptionError
        from rexnet.training.distributed import is_main_process

        # Of several processes one tells what happens; what goes wrong, each does.
        logging.getLogger("rexnet").setLevel(logging.INFO if is_main_process() else logging.WARNING)
        COMMANDS[word](arguments)
    except KeyboardInterrupt as stop:
        fail(str(stop) or "stopped", code=getattr(stop, "exit_code", 130))
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough; Python would complain once more at its exit.
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        bad_image = any(kind.__name__ == "BadImageError" for kind in type(error).__mro__)
        remedy = "; --bad-image skip leaves such files out, rexnet data check finds them all" if bad_image else ""
        fail(" ".join(_sentence(error).split()) + remedy, code=2 if isinstance(error, OptionError) else 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        fail("the device's memory is full; a smaller --batch-size or --image-size needs less", code=1)


def _sentence(error: ValueError | OSError) -> str:
    """Of an error of the system, its file and its words without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    file = "" if error.filename is None else f"{error.filename}: "
    return f"{file}{error.strerror.lower()}"
