"""Options of `rexnet serve`."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rexnet.engines.config import Backend, Precision
from rexnet.errors import OptionError, require, require_at_least
from rexnet.files import check_output_file, read_text
from rexnet.options import Device, positional
from rexnet.processes import usable_cpus
from rexnet.references import BEST, PREDICTABLE, Reference, resolve
from rexnet.text import reason_of

_STATISTICS = "stats"
"""Reserved name: /v2/models/stats has the statistics of all models."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Predict the classes and objects of images over HTTP."""

    models: Annotated[tuple[str, ...], positional("[NAME=]MODEL ...")]
    """Run folders, folders of `rexnet card` or hf://OWNER/NAME, checkpoints (.pt, .safetensors), or .onnx and .xml
    files of `rexnet export`. Without NAME= a model has the name of its file or folder,
    with "-" in place of all characters except letters, digits, ".", "_" and "-"."""
    host: str = "127.0.0.1"
    """Address to listen on: the default accepts connections from this machine only, 0.0.0.0 also from the network."""
    port: int = 8000
    """TCP port; 0: a free one, which is logged."""
    workers: int = 1
    """Processes, each with its own copy of the models."""
    threads: int | None = None
    """CPU threads per worker; None: the CPUs divided among the workers."""
    backend: Backend | Literal["auto"] = "auto"
    """Engine of classifiers: auto measures the installed ones once on this machine and remembers the fastest."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision of classifiers: auto is that of the file, fp32 for a checkpoint."""
    device: Device = "auto"
    max_batch: int = 8
    """Maximum number of images per batch, which may come from several requests; batches have 1, 2, 4, 8, ... images."""
    batch_wait_ms: float = 0.0
    """Maximum time that an image waits for its batch to fill while the network is busy; an idle network starts at
    once."""
    queue_length: int = 256
    """Maximum number of pending images per model; further ones get status 429."""
    timeout_s: float = 30.0
    """Maximum time to answer a request after it has arrived; then status 503."""
    body_timeout_s: float = 20.0
    """Maximum time to send the headers of a request, and its body; then the connection is closed."""
    max_body_mib: float = 32.0
    """Maximum size of a request in MiB, before and after decompression."""
    max_megapixels: float = 50.0
    """Maximum size of an image in million pixels, checked before it is decoded."""
    max_images: int = 32
    """Maximum number of images per request."""
    api_key_file: str | None = None
    """File with the API key that requests must send; alternatively, set the environment variable REXNET_API_KEY."""
    reload: bool = True
    """Reload a model file when it is replaced and the new one works."""
    log: str | None = None
    """Access log, a line of JSON per request; None: standard error."""

    def __post_init__(self) -> None:
        if not self.models:
            raise OptionError("no models given; name run folders, checkpoints, or .onnx or .xml files of rexnet export")
        require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        require_at_least(self, 1, "workers", "max_batch", "queue_length", "max_images", "threads")
        require(0 <= self.batch_wait_ms <= 10_000, "batch_wait_ms", self.batch_wait_ms, "0 to 10000")
        for name in ("timeout_s", "body_timeout_s", "max_body_mib", "max_megapixels"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.max_images <= self.queue_length, "max_images", self.max_images, "at most --queue-length")

    def check(self) -> None:
        """Raise WeightsError for a model that does not exist, and OptionError for its name and for --log."""
        try:
            check_output_file(self.log, option="--log")
        except ValueError as error:
            raise OptionError(str(error)) from error
        named_references(self.models)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mib * 2**20)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)

    @property
    def threads_per_worker(self) -> int:
        return self.threads or max(1, usable_cpus() // self.workers)

    def read_api_key(self, environment: str | None = None) -> str | None:
        """Return the key in `api_key_file`, or else in the environment. Raise OptionError for a file that cannot be
        read, and for a key that cannot be sent in a header."""
        key = environment
        if self.api_key_file is not None:
            try:
                key = read_text(self.api_key_file).strip()
            except (OSError, ValueError) as error:
                raise OptionError(f"--api-key-file {self.api_key_file!r}: {reason_of(error)}") from error
        if key is None:
            return None
        if not (key.isascii() and key.isprintable() and len(key) >= 8 and " " not in key):
            raise OptionError("the API key is not valid; allowed: 8 or more ASCII letters, digits and punctuation")
        return key


def named_references(models: Sequence[str]) -> dict[str, Reference]:
    """Return the references of NAME=MODEL or MODEL by name. Raise OptionError for an invalid or duplicate name, and for
    a MODEL that cannot predict; nothing is opened."""
    found: dict[str, Reference] = {}
    for argument in models:
        name, reference = _read_named(argument)
        if name in found:
            raise OptionError(
                f"two models have the name {name!r} ({found[name].text} and {reference.text}); rename one of them, "
                f"as in {shlex.quote(f'other={reference.text}')}"
            )
        found[name] = reference
    return found


def _read_named(argument: str) -> tuple[str, Reference]:
    name, model = _split_name(argument)
    reference = resolve(model, allowed=PREDICTABLE)
    reference.require_weights()
    name = name or _allowed_name(_name_of(reference))
    if not _NAME.fullmatch(name) or name == _STATISTICS:
        raise OptionError(
            f"{name!r} cannot be the name of a model; allowed: 1 to 64 letters, digits, '.', '_' and '-', but not "
            f"{_STATISTICS}, as in {shlex.quote(f'flowers={model}')}"
        )
    return name, reference


def _allowed_name(name: str) -> str:
    """Return `name` with "-" in place of characters that are not allowed: "roses-2024-1" for "roses (2024)-1"."""
    return name if _NAME.fullmatch(name) else re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("._-")[:64]


def _name_of(reference: Reference) -> str:
    if reference.kind == "hub":
        return reference.text.partition("@")[0].rpartition("/")[2]
    if reference.kind in ("run", "folder"):
        return reference.path.absolute().name
    if reference.kind in ("weights", "exported"):
        file = reference.path
        return file.absolute().parent.name if file.name == BEST else file.stem
    return reference.name


def _split_name(argument: str) -> tuple[str, str]:
    """Return NAME and MODEL of NAME=MODEL; NAME is empty for a plain MODEL, which may be a file with = in its name."""
    name, equals, model = argument.partition("=")
    return (name, model) if equals and not Path(argument).exists() else ("", argument)
