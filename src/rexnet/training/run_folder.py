"""Run folder: settings, environment, metrics and checkpoints, sufficient to repeat or continue the run."""

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet._version import __version__
from rexnet.data.facts import DataFacts
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.files import check_output_folder, read_text, real_path, write_whole
from rexnet.text import printable, reason_of
from rexnet.training.curves import draw_curves

if TYPE_CHECKING:
    from rexnet.training.distributed import World

logger = logging.getLogger(__name__)

METRICS, DISCARDED, DATA = "metrics.jsonl", "discarded_steps.jsonl", "data.json"
ENVIRONMENT = "environment.json"
TEACHERS, TEACHERS_CLASSIFIERS = "teachers.json", "teachers.safetensors"
FILES = (
    *("config.json", ENVIRONMENT, DATA, METRICS, "summary.json", "curves.png"),
    *("best.pt", "last.pt", "previous.pt", DISCARDED, "report.html", "features.safetensors"),
    *(TEACHERS, TEACHERS_CLASSIFIERS),
)
SAMPLES = "samples"
_MAX_SAMPLES = 10


class RunFolder:
    """Paths and records of a run; `path` is the folder itself."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.best = self.path / "best.pt"
        self.last = self.path / "last.pt"
        self.previous = self.path / "previous.pt"
        self._lock: int | None = None
        self._made = False

    @property
    def has_checkpoint(self) -> bool:
        """Return True if there is a checkpoint to continue from."""
        return self.last.exists() or self.previous.exists()

    def holds(self, name: str) -> bool:
        return (self.path / name).is_file()

    def lock(self) -> None:
        """Lock the folder until `close` or the process ends. Raise ValueError if another process holds the lock."""
        check_output_folder(self.path, allowed="a folder")
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"another process is writing to {str(self.path)!r}; stop it first") from error
        except OSError:
            logger.warning("%s is on a file system without locks; do not start another run in it", self.path)

    def close(self) -> None:
        """Unlock the folder for other processes."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def refuse_used(self, *, overwrite: bool) -> None:
        """Raise ValueError for a file, or for a folder that holds other files or, unless `overwrite` is on, a run."""
        check_output_folder(self.path)
        if self.holds("config.json"):
            if not overwrite:
                raise ValueError(
                    f"--output {str(self.path)!r} holds a run already; --resume continues it, --overwrite replaces it"
                )
        elif self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise ValueError(f"--output {str(self.path)!r} holds other files; name a new or an empty folder")

    def refuse_source(self, *sources: str | None) -> None:
        """Raise ValueError if one of `sources` is this folder or a file in it."""
        own = real_path(self.path)
        for source in sources:
            if source is not None and os.path.exists(source) and own in (path := real_path(source), path.parent):
                raise ValueError(
                    f"--output {str(self.path)!r} would replace {printable(source)}, which the run reads; name another "
                    "folder"
                )

    def prepare(self, *, overwrite: bool) -> None:
        """Empty the folder for a new run. Raise ValueError in the same cases as `refuse_used`."""
        self.refuse_used(overwrite=overwrite)
        if self.holds("config.json"):
            self._remove_files()

    def remove_start(self) -> None:
        """Remove the files of a run that failed before its first result (a checkpoint, a row of metrics or a discarded
        step)."""
        if self.has_checkpoint or self.holds(METRICS) or self.holds(DISCARDED):
            return
        self._remove_files()
        with suppress(OSError):
            (self.path / SAMPLES).rmdir()
        if self._made:
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # another program has put a file there
                self.path.rmdir()

    def _remove_files(self) -> None:
        for file in (
            *(self.path / name for name in FILES),
            *self.path.glob(f"{SAMPLES}/*.png"),
            *self.path.glob("*.pt.damaged"),
            *self.path.glob("events.out.tfevents.*"),
        ):
            file.unlink(missing_ok=True)

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write `values` to the file as JSON, atomically."""
        write_whole(self.path / name, json.dumps(values, indent=2) + "\n")

    def read(self, name: str) -> dict[str, Any]:
        """Read a file written by `write`. Raise ValueError if it is missing or damaged."""
        path = self.path / name
        try:
            values = json.loads(read_text(path))
            if not isinstance(values, dict):
                raise ValueError(f"a {type(values).__name__} instead of settings")
            return values
        except (OSError, ValueError) as error:
            raise ValueError(f"{str(path)!r} cannot be read ({reason_of(error)}); is this a run folder?") from error

    def data_facts(self) -> DataFacts | None:
        """Read data.json of this or an older version; return None if it does not exist."""
        if not self.holds(DATA):
            return None
        try:
            return DataFacts.from_dict(self.read(DATA))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{str(self.path / DATA)!r} cannot be used ({reason_of(error)})") from error

    def append(self, row: dict[str, Any], name: str = METRICS) -> None:
        """Append a row, on a line of its own, to a file."""
        path = self.path / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            error.filename = os.fspath(path)  # the error of a full disk does not name the file
            raise

    def draw_curves(self) -> None:
        """Plot metrics.jsonl as curves.png."""
        draw_curves(self.rows(), self.path / "curves.png", title=self.path.name)

    def rows(self, name: str = METRICS) -> list[dict[str, Any]]:
        """Read the rows of metrics.jsonl, one per epoch, or of DISCARDED, ignoring a last row that a kill truncated."""
        if not self.holds(name):
            return []
        lines = (self.path / name).read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError as error:
            raise ValueError(f"{str(self.path / name)!r} is damaged ({error}); fix or remove the line") from error

    def keep_rows(self, *, epochs: int, steps: int) -> None:
        """Drop metrics after epoch `epochs`, and discarded steps from step `steps` of the run on: the run may have been
        killed between a row and its checkpoint."""
        if self.holds(METRICS):
            self._write_rows(METRICS, [row for row in self.rows() if row["epoch"] <= epochs])
        if self.holds(DISCARDED):
            self._write_rows(DISCARDED, [row for row in self.rows(DISCARDED) if row["step"] < steps])

    def _write_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_whole(self.path / name, "".join(json.dumps(row) + "\n" for row in rows))

    def save_samples(self, images: ImageSet) -> None:
        """Save one image per class of a dataset without files, as samples/CLASS-NUMBER.png, for trying predictions."""
        if isinstance(images, FileImages):
            return
        (self.path / SAMPLES).mkdir(exist_ok=True)
        for target, name in list(enumerate(images.classes))[:_MAX_SAMPLES]:
            indices = (images.targets == target).nonzero()[0]
            if len(indices):
                number = images.name(indices[0]).rpartition("/")[2]
                images.load(indices[0]).save(self.path / SAMPLES / f"{name.replace('/', '-')}-{number}.png")


def local_path(data: str) -> str | None:
    """Return the absolute path of DATA if it is a local folder; None for a named dataset or a URL."""
    return os.path.abspath(data) if os.path.exists(data) else None


def next_free_folder(model: str, data: str, *, parent: str | os.PathLike[str] = "runs") -> Path:
    """Return parent/MODEL-DATA-N with the smallest free N, counted from 1."""
    short_name = real_path(data).name if os.path.exists(data) else data.replace("/", "-")
    model = Path(model).stem if os.path.isfile(model) else model
    number = 1
    while (path := Path(parent, f"{model}-{short_name}-{number}")).exists():
        number += 1
    return path


def describe_environment(world: "World") -> dict[str, Any]:
    """Return what is needed to repeat the run: versions, hardware, command and, in a git checkout, the commit."""
    import timm
    import torch
    import torchvision

    on_gpu = world.device.type == "cuda"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "rexnet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else str(world.device),
        "processes": world.size,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of this package's source, with "+changes" if there are uncommitted ones; None outside a git
    checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
