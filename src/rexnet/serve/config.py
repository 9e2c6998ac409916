"""What a server is told when it is started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rexnet.engines.backends import Backend, Precision
from rexnet.errors import OptionError, require
from rexnet.processes import usable_cpus
from rexnet.text import reason_of


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answers over HTTP what is on pictures."""

    models: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME=]MODEL ...", help_behavior_hint="(required)"),
    ]
    """Run folders, folders of `rexnet card` or hf://OWNER/NAME, checkpoints (.pt, .safetensors), or .onnx and .xml
    files of `rexnet export`; classifiers and detectors. Without NAME= a model is called as its file, or as its folder
    where that is the model."""
    host: str = "127.0.0.1"
    """Address to listen on; the default answers this machine only, 0.0.0.0 everyone who reaches it."""
    port: int = 8000
    """TCP port; 0 takes a free one and says which."""
    workers: int = 1
    """Processes; each holds the models once."""
    threads: int | None = None
    """CPU threads of each worker; None: the CPUs divided among the workers."""
    backend: Backend | Literal["auto"] = "auto"
    """What computes classifiers: auto measures the installed engines once on this machine and remembers the fastest."""
    precision: Precision | Literal["auto"] = "auto"
    """Of the computing: auto is what the file was made for, fp32 for a checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    max_batch: int = 8
    """Most pictures, of several requests too, that a network computes at once; 1, 2, 4, 8, ... of them."""
    batch_wait_ms: float = 0.0
    """Longest that a picture waits for others to fill its batch, while the network is busy; it never waits when the
    network is idle."""
    queue_length: int = 256
    """Most pictures that a model has accepted and not yet answered; more are refused with status 429."""
    timeout_s: float = 30.0
    """Longest that a request may take once it has arrived; then status 503."""
    body_timeout_s: float = 20.0
    """Longest that a client may take to send a request, and its headers; then the connection is closed."""
    max_body_mib: float = 32.0
    """Most MiB of a request."""
    max_megapixels: float = 50.0
    """Most million pixels of a picture, looked up before it is decoded."""
    max_images: int = 32
    """Most pictures of one request."""
    api_key_file: str | None = None
    """File with a key that requests must carry; or put the key into the environment variable REXNET_API_KEY."""
    reload: bool = True
    """Take up a model file that is replaced, once it is known to work."""
    log: str | None = None
    """File that gets a line of JSON for each request; None: standard error."""

    def __post_init__(self) -> None:
        if not self.models:
            raise OptionError("no models given; name run folders, checkpoints, or .onnx or .xml files of rexnet export")
        require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        for name in ("workers", "max_batch", "queue_length", "max_images"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")
        require(0 <= self.batch_wait_ms <= 10_000, "batch_wait_ms", self.batch_wait_ms, "0 to 10000")
        for name in ("timeout_s", "body_timeout_s", "max_body_mib", "max_megapixels"):
            require(0 < getattr(self, name) < float("inf"), name, getattr(self, name), "above 0")
        require(self.max_images <= self.queue_length, "max_images", self.max_images, "at most --queue-length")

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mib * 2**20)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)

    @property
    def threads_of_a_worker(self) -> int:
        return self.threads or max(1, usable_cpus() // self.workers)

    def read_api_key(self, environment: str | None = None) -> str | None:
        """The key of `api_key_file`, or else the one that the environment holds. OptionError for a file that cannot be
        read, and for a key that no header can carry."""
        key = environment
        if self.api_key_file is not None:
            try:
                key = Path(self.api_key_file).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise OptionError(f"--api-key-file {self.api_key_file!r} cannot be read: {reason_of(error)}") from error
        if key is None:
            return None
        if not (key.isascii() and key.isprintable() and len(key) >= 8 and " " not in key):
            raise OptionError("the API key is not usable; allowed: 8 or more ASCII letters, digits and signs")
        return key
