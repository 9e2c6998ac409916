"""Parts of files, by offset, out of a folder on a disk or behind a URL. Nothing is kept open, so forked and spawned
processes can share one source."""

import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, final

from rexnet.text import printable

_RETRY_AFTER_S = (0.5, 1.0, 2.0)


class ByteSource(ABC):
    """A folder of files; `location` is its path or URL."""

    def __init__(self, location: str):
        self.location = location

    @abstractmethod
    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` (None: the end) of a file; fewer where the file ends before. Raises OSError."""


@final
class LocalSource(ByteSource):
    """Files on a disk."""

    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        with open(os.path.join(self.location, file), "rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)


@final
class RemoteSource(ByteSource):
    """Files behind a URL of any kind that fsspec reads: http(s)://, s3://, gs://, hf://, ...

    A failing read is tried four times within four seconds. Raises ValueError for a kind of URL that nothing installed
    can read.
    """

    def __init__(self, url: str):
        super().__init__(url.rstrip("/"))
        self._file_system()

    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        for wait_s in (*_RETRY_AFTER_S, None):
            try:
                return self._read_once(file, start, stop)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{printable(self.location)}/{file} does not exist") from error
            except Exception as error:  # the errors of fsspec's file systems have no common base
                if wait_s is None:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise OSError(f"{printable(self.location)}/{file} cannot be read ({reason})") from error
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def check_ranges(self, file: str) -> None:
        """Raises ValueError where the server sends whole files only: asked for one byte of `file`, a small one."""
        if len(self.read(file, 0, 1)) > 1:
            raise ValueError(
                f"the server of {printable(self.location)} sends whole files only, not ranges of bytes; copy the "
                "folder to a disk, or use a server that answers range requests"
            )

    def _read_once(self, file: str, start: int, stop: int | None) -> bytes:
        file_system, path = self._file_system()
        limits = {} if stop is None else {"start": start, "end": stop}
        return file_system.cat_file(f"{path}/{file}", **limits)

    def _file_system(self) -> tuple[Any, str]:
        # fsspec keeps one file system a process, so asking again is cheap, and right after a fork.
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.location)
        except ImportError as error:
            raise ValueError(
                f"{printable(self.location)} needs a package that is not installed ({error}); for http and https: "
                "pip install 'rexnet[stream]'"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{printable(self.location)} is no URL that can be read ({error}); https:// and s3:// are two that can"
            ) from error


def is_url(location: str | Path) -> bool:
    return isinstance(location, str) and "://" in location


def open_source(location: str | Path) -> ByteSource:
    """The folder `location`, a path or a URL."""
    return (
        RemoteSource(location) if isinstance(location, str) and is_url(location) else LocalSource(os.fspath(location))
    )
