"""Output files: checked before the work starts, and written atomically."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from rexnet.text import printable, reason_of


def real_path(path: str | PathLike[str]) -> Path:
    """Return the path with all links resolved, even of a link to itself, for which Path.resolve raises before Python
    3.13."""
    return Path(os.path.realpath(path))


def digest_of(*paths: Path) -> str:
    """Return the SHA-256 of the concatenated content of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def check_output_file(path: str | PathLike[str] | None, *, option: str = "--output") -> None:
    """Raise ValueError if `path` cannot be written as a file; call it before computing the content. None is no file."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{option} is {printable(path)!r}, a folder; name a file")
    check_parent(path, option=option)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} is {printable(path)!r}, which is not writable; name another file")


_NEW = "a new or an empty folder"


def check_output_folder(path: str | PathLike[str], *, allowed: str = _NEW, option: str = "--output") -> None:
    """Raise ValueError if `path` is a file or cannot be written; `allowed` describes the possible folders in the
    message."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} is {printable(path)!r}, a file; allowed: {allowed}")
    there = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), path)
    if not os.access(there, os.W_OK):
        raise ValueError(f"{option} is {printable(path)!r}, which is not writable; name another folder")


def check_new_folder(path: str | Path, *, own: Collection[str] = (), option: str = "OUTPUT") -> None:
    """Raise ValueError if `path` is a file, or a folder with other files than `own`."""
    check_output_folder(path, option=option)
    if os.path.isdir(path) and (others := sorted(set(os.listdir(path)).difference(own))):
        other = printable(others[0])
        raise ValueError(f"{option} is {printable(path)!r}, which contains {other}; allowed: {_NEW}")


def check_parent(path: str | Path, *, option: str = "OUTPUT") -> None:
    """Raise ValueError if the folder of `path` does not exist."""
    parent = Path(path).parent
    if not parent.is_dir():
        raise ValueError(f"{option} is {printable(path)!r}, but there is no folder {printable(parent)!r}; create it")


def check_outside(path: str | Path, data: str | Path) -> None:
    """Raise ValueError if the output `path` is the folder `data` or lies in it."""
    output, folder = real_path(path), real_path(data)
    if folder.is_dir() and folder in (output, *output.parents):
        raise ValueError(f"OUTPUT is {printable(path)!r}, which lies in {printable(data)!r}; choose another folder")


def check_replaceable(*paths: Path, overwrite: bool) -> None:
    """Raise ValueError if one of the files exists and may not be replaced."""
    if not overwrite and (there := [path for path in paths if os.path.lexists(path)]):
        raise ValueError(f"--output: {printable(there[0])!r} already exists; --overwrite replaces it")


def read_text(path: str | PathLike[str], *, errors: str = "strict") -> str:
    """Return the content of a UTF-8 file without the byte order mark that some editors write.

    `errors` as in `open`. Raise OSError, and a ValueError that names the encoding to use for bytes that are not text
    and, with surrogateescape, for UTF-16.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig", errors=errors)
        return path.read_text(encoding="utf-8") if text.startswith(("\udcff\udcfe", "\udcfe\udcff")) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} cannot be read: {reason_of(error)}") from error


@contextmanager
def made_aside(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a path of the same name in an empty folder beside `path`. At the end of the block, the content of that
    folder is moved to the folder of `path`, the file itself last; if the block raises, that folder is removed and older
    files stay.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        inside = Path(folder, path.name)
        yield inside
        for made in sorted(Path(folder).iterdir(), key=lambda made: made == inside):
            place = path.with_name(made.name)
            if made.is_dir() and place.is_dir():
                shutil.rmtree(place)
            _flush(made)
            os.replace(made, place)
        _flush(path.parent)


def write_whole(
    path: str | PathLike[str], content: str | bytes | memoryview, *, keep: str | PathLike[str] | None = None
) -> None:
    """Write `content` (text as UTF-8) to `path` atomically and durably. An older file stays in place until then, and is
    renamed to `keep`. Raise OSError with the path, for example if the disk is full, and then leaves nothing behind.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        if path.exists() and not path.is_file():  # a pipe or device, such as /dev/stdout, cannot be replaced
            path.write_bytes(data)
            return
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if unfinished.read_bytes() != data:
            raise OSError(f"{printable(path)!r} was not stored as it was written")
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if error.errno is not None:  # the error of a full disk does not name the file
            error.filename = os.fspath(path)
        raise
    # The new name is durable only once its folder is flushed.
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_file() or os.name == "posix":
        handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
