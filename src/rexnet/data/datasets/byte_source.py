"""Byte ranges of files, on a disk or behind a URL. Nothing is kept open, so it works in forked and spawned processes
alike."""

import time
from pathlib import Path
from typing import Any

from rexnet.text import printable

_RETRY_AFTER_S = (0.5, 1.0, 2.0)


def is_url(location: str | Path) -> bool:
    return isinstance(location, str) and "://" in location


def read_bytes(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` (None: the end) of a file; fewer if the file ends earlier.

    `path` may be a URL of any kind that fsspec reads (https://, s3://, gs://, hf://, ...); a read from a URL is tried
    up to four times within four seconds. Raise OSError, and ValueError for a URL that no installed package can read.
    """
    if not is_url(path):
        with open(path, "rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)
    file_system, inner = _file_system(path)
    limits = {} if stop is None else {"start": start, "end": stop}
    for wait_s in (*_RETRY_AFTER_S, None):
        try:
            return file_system.cat_file(inner, **limits)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{printable(path)} does not exist") from error
        except Exception as error:  # the errors of fsspec's file systems have no common base
            if wait_s is None:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise OSError(f"{printable(path)} cannot be read ({reason})") from error
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _file_system(url: str) -> tuple[Any, str]:
    folder, _, name = url.rpartition("/")
    try:
        from fsspec.core import url_to_fs

        # fsspec caches one file system per process, so this is cheap, and safe after a fork.
        file_system, inner = url_to_fs(folder)
    except ImportError as error:
        raise ValueError(
            f"{printable(folder)} needs a package that is not installed ({error}); for http and https: "
            "pip install 'rexnet[stream]'"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{printable(folder)} is not a URL that can be read ({error}); allowed are, for example, https:// and s3://"
        ) from error
    return file_system, f"{inner}/{name}"
