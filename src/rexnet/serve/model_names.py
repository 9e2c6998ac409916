"""What the models of a server are called, and which files they are."""

import re
from collections.abc import Sequence
from pathlib import Path

from rexnet.errors import OptionError
from rexnet.models.hub import PREFIX, is_model_folder, weights_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEST = "best.pt"


def named_files(words: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH or PATH, each a file, a run folder, or a model folder here or at the hub -> name -> file. OptionError
    for what cannot be a name, for a name given twice and for a file that is not there."""
    found: dict[str, Path] = {}
    for word in words:
        name, file = _split(word)
        if name in found:
            raise OptionError(
                f"two models are called {name!r} ({found[name]} and {file}); give one of them another name, as in "
                f"other={file}"
            )
        found[name] = file
    return found


def _split(word: str) -> tuple[str, Path]:
    name, equals, path = word.partition("=")
    if not equals or Path(word).exists():
        name, path = "", word
    file = Path(path)
    if is_model_folder(path):
        name = name or (path.partition("@")[0].rpartition("/")[2] if path.startswith(PREFIX) else file.absolute().name)
        file = weights_path(path)
    elif file.is_dir() and (file / _BEST).is_file():
        file = file / _BEST
    if not file.is_file():
        allowed = "a run folder, a folder of `rexnet card`, a checkpoint, or a .onnx or .xml file"
        raise OptionError(f"there is no file {str(file)!r}; give {allowed}")
    if not name:
        name = file.absolute().parent.name if file.name == _BEST else file.stem
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} cannot be the name of a model; allowed: 1 to 64 letters, digits, '.', '_' and '-', as in "
            f"flowers={file}"
        )
    return name, file
