"""Model folders of `rexnet card`, local or as repositories on the Hugging Face hub: "hf://OWNER/NAME"."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rexnet.errors import MissingPackageError, WeightsError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

PREFIX = "hf://"
WEIGHTS = "model.safetensors"
"""File of a model folder that contains everything needed to use the model."""
REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"
PATIENCE_S = 5
"""Time limit for a host's answer."""


def weights_path(name: str | PathLike[str]) -> Path:
    """Return the weights file of a model folder, downloaded if needed; return any other path unchanged.

    Raise WeightsError for an invalid address, and if there is neither a network connection nor an earlier copy.
    """
    if os.fspath(name).startswith(PREFIX):
        return _from_hub(os.fspath(name))
    inside = Path(name, WEIGHTS)
    return inside if os.path.isfile(inside) else Path(name)  # isfile accepts names that are too long for the system


def download(repository: str, file: str, *, revision: str | None = None) -> Path:
    """Return the newest version of a file on the hub, in the hub's usual cache. Raise whatever the hub's client raises,
    and TimeoutError if the hub does not answer."""
    from huggingface_hub import hf_hub_download

    # Fail at once without a network connection; the download itself retries for half a minute.
    ask_hub(repository, file, revision=revision)
    return Path(hf_hub_download(repository, file, revision=revision))


def ask_hub(repository: str, file: str, *, revision: str | None = None, patience_s: float = PATIENCE_S) -> int | None:
    """Return the size in bytes of a file on the hub, None if it is unknown. Raise whatever the hub's client raises, and
    TimeoutError if the hub does not answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, file, revision=revision)
    return wait_for(lambda: get_hf_file_metadata(url, timeout=patience_s).size, patience_s)


def ask_url(address: str, *, patience_s: float = PATIENCE_S) -> int | None:
    """Return the size in bytes of a file on a web server, None if it is unknown. Raise OSError if it has no
    such file or does not answer."""

    def ask() -> int | None:
        with urlopen(Request(address, method="HEAD"), timeout=patience_s) as answer:
            return int(answer.headers.get("Content-Length") or 0) or None

    return wait_for(ask, patience_s)


def is_offline() -> bool:
    """Return whether only the cache may be used, by HF_HUB_OFFLINE or within `cache_only`."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


@contextmanager
def cache_only(wanted: bool) -> Iterator[None]:
    """Within this context, take files only from the cache if `wanted`, as with HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers() -> bool:
    """Return whether the hub can be reached."""
    from huggingface_hub import constants

    try:
        ask_url(constants.ENDPOINT)
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_for(call: Callable[[], Answer], patience_s: float = PATIENCE_S) -> Answer:
    """Return the answer to a call to a host, or raise TimeoutError after `patience_s`: the timeouts of client libraries
    do not cover name resolution and retries."""
    answers: list[Answer] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            raised.append(error)

    # A daemon thread: the program can exit without waiting for it.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {patience_s:g} seconds")
    if raised:
        raise raised[0]
    return answers[0]


def _from_hub(address: str) -> Path:
    repository, _, revision = address.removeprefix(PREFIX).partition("@")
    if not re.fullmatch(REPOSITORY, repository):
        allowed = f"{PREFIX}OWNER/NAME, or {PREFIX}OWNER/NAME@REVISION"
        raise WeightsError(f"{address!r} is not a repository on the hub; allowed: {allowed}")
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise MissingPackageError(address, "huggingface_hub", "huggingface_hub") from error
    try:
        return download(repository, WEIGHTS, revision=revision or None)
    except RepositoryNotFoundError as error:
        private = "if it is private, log in with `hf auth login`"
        raise WeightsError(
            f"the hub has no accessible repository {repository!r}; correct the name, or {private}"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {revision!r}; omit it for the newest") from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{repository} contains no {WEIGHTS}; `rexnet card` creates a repository with one"
        ) from error
    # The hub's client passes on errors of its HTTP library, which differ by version.
    except Exception as error:
        reason = type(error).__name__
        cached = try_to_load_from_cache(repository, WEIGHTS, revision=revision or None)
        if not isinstance(cached, str):
            by_hand = "without a network connection, give a local copy of the folder instead"
            raise WeightsError(f"{address} could not be downloaded ({reason}); {by_hand}") from error
        logger.warning("could not reach %s (%s); using the last downloaded copy", address, reason)
        return Path(cached)
