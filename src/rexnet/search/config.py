"""Settings of a search. A field is a command-line option, and the text under it is its help."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.decode import BadImagePolicy
from rexnet.data.preprocess import Preprocess, require_image_size
from rexnet.errors import require, require_at_least, require_package
from rexnet.files import check_output_folder
from rexnet.options import Device, positional
from rexnet.search.space import Space
from rexnet.training.config import Amp, OptimConfig, RunConfig, ScheduleConfig, TrainConfig

OPTUNA = ("rexnet search", "optuna", "'rexnet[search]'")
"""Arguments of `require_package`."""

if TYPE_CHECKING:
    from rexnet.data.memory_batches import CropAndFlip

Objective = Literal["accuracy", "macs", "latency", "effective_rank"]
DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "macs": "minimize",
    "latency": "minimize",
    "effective_rank": "maximize",
}
_FORMS: dict[Objective, tuple[float, str]] = {
    "accuracy": (1.0, "{:.2f} %"),
    "macs": (1e-6, "{:.2f} M"),
    "latency": (1.0, "{:.3g} ms"),
    "effective_rank": (1.0, "{:.4f}"),
}
Sampler = Literal["random", "tpe", "cmaes"]
Constraint = Literal["a", "b", "c", "d"]
"""The four searches of the paper, see `rexnet.search.recipes.SEARCHES`."""
RecipeName = Literal["short", "published"]


def format_value(objective: Objective, value: float) -> str:
    """Return a value of an objective with its unit."""
    factor, form = _FORMS[objective]
    return form.format(factor * value)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Images that candidates are trained and measured on."""

    image_size: int = 32
    """Size in pixels of the square input in training; below --cost-size for a cheaper search."""
    shots: int | None = None
    """Train on only this many images of each class, drawn with --seed; None: all."""
    val_shots: int | None = None
    """Measure on only this many validation images of each class; None: all."""
    val_fraction: float | None = None
    """Fraction of every class to validate on if the data has no splits; None: a fifth."""
    crop_padding_px: int = 4
    """Black padding, in pixels, around an image before a random crop; 0: no random crop."""
    horizontal_flip: float = 0.5
    """Probability of a horizontal flip; 0 if direction matters, as in digits."""
    bad_image: BadImagePolicy = "error"

    def __post_init__(self) -> None:
        require_image_size(self)
        require_at_least(self, 1, "shots", "val_shots")
        holds = self.val_fraction is None or 0.0 < self.val_fraction < 1.0
        require(holds, "val_fraction", self.val_fraction, "between 0 and 1, or None")
        require_at_least(self, 0, "crop_padding_px")
        require(0 <= self.horizontal_flip <= 1, "horizontal_flip", self.horizontal_flip, "from 0 to 1")

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(image_size_px=self.image_size, crop_ratio=1.0)

    @property
    def augment(self) -> "CropAndFlip":
        from rexnet.data.memory_batches import CropAndFlip

        return CropAndFlip(padding_px=self.crop_padding_px, flip=self.horizontal_flip)


@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """Training of a candidate, except optimizer and schedule."""

    repeats: int = 1
    """Training runs per candidate, with different seeds, whose accuracies are averaged."""
    batch_size: int = 64
    """Images per step."""
    label_smoothing: float = 0.1
    """Label smoothing: fraction of the target spread over all classes."""
    amp: Amp = "auto"
    """Mixed precision; auto: bf16 on GPUs that have it, fp16 on older ones, off elsewhere."""
    channels_last: bool = True
    """Memory format of images and weights; channels-last is usually faster."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "repeats")
        require_at_least(self, 2, "batch_size")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Choice of candidates, devices and storage."""

    output: str = "search"
    """Folder of the search; the same command continues the search in it."""
    storage: str | None = None
    """Optuna's storage, which processes on many machines may share: postgresql://, mysql:// or sqlite:/// URL, or
    journal:FILE; None: study.db in --output."""
    study: str = "channels"
    """Name of the search in the storage."""
    sampler: Sampler = "tpe"
    """Choice of the next candidate: at random, or from the results of earlier ones."""
    objectives: tuple[Objective, ...] = ("accuracy",)
    """Objectives: accuracy, optionally with macs or latency; or effective_rank, which needs no training."""
    prune_worst: float | None = None
    """Stop a candidate whose accuracy after an epoch is among this worst fraction of the earlier candidates, for
    example 0.25."""
    candidates: int = 60
    """Number of distinct networks to measure, over all processes."""
    comparisons: int = 3
    """First measure a straight line and the stage-wise convention this many times each, with different seeds."""
    processes: int = 1
    """Processes of this command, which share one copy of the images; processes on other machines may join."""
    threads: int = 1
    """CPU threads of each process; more threads help little with networks this small."""
    device: Device = "auto"
    seed: int = 0
    """Random seed; with several processes the candidates also depend on their timing."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "candidates", "processes", "threads")
        require_at_least(self, 0, "comparisons")
        require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2**31 - 1")
        worst = self.prune_worst
        require(worst is None or 0 < worst < 1, "prune_worst", worst, "above 0 and below 1, or None")
        require(bool(self.study), "study", repr(self.study), "a name")
        several = len(self.objectives) > 1
        listed = " ".join(self.objectives)
        wanted = f"one or more of {', '.join(get_args(Objective))}, each once"
        require(0 < len(self.objectives) == len(set(self.objectives)), "objectives", listed or "empty", wanted)
        alone = "latency" not in self.objectives or self.processes == 1
        require(
            alone, "processes", self.processes, "1 with the objective latency, because processes slow each other down"
        )
        require(worst is None or self.objectives == ("accuracy",), "prune_worst", worst, "with --objectives accuracy")
        require(not (several and self.sampler == "cmaes"), "sampler", "cmaes", "random, tpe with several --objectives")

    @property
    def database(self) -> Path:
        """Default storage, unless --storage names another."""
        return Path(self.output) / "study.db"

    @property
    def may_have_begun(self) -> bool:
        """True if there is a storage that may hold this search."""
        return self.storage is not None or self.database.is_file()


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search the channels of every block, under limits on parameters and multiply-accumulates. Options that are not
    given come from the recipe, or from the search that was started in --output."""

    data: Annotated[str, positional("DATA")] = "digits"
    """A folder with train/ and val|valid|validation|test/, a folder of class folders, digits, torchvision/NAME, a
    folder of tars or its URL, or hfds/NAME."""
    recipe: RecipeName = "short"
    """Settings to start from; every other option overrides them. published: 30 epochs, three repeats, all images;
    short: for two CPU cores."""
    constraint: Constraint | None = None
    """Blocks and limits of one of the paper's four searches, a to d."""
    space: Space = field(default_factory=Space)
    images: ImageOptions = ImageOptions()
    training: CandidateOptions = CandidateOptions()
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        costs = [name for name in self.engine.objectives if name in ("macs", "latency")]
        free = self.space.min_share < 1
        require(not costs or free, "min_share", self.space.min_share, f"below 1 with the objective {' '.join(costs)}")

    def check(self) -> None:
        """Raise ValueError for an output or data that cannot be used, and for a missing package."""
        require_package(*OPTUNA)
        check_output_folder(self.engine.output, allowed="a new folder or that of an earlier search")
        open_dataset(self.data)

    def train_config(self, seed: int) -> TrainConfig:
        """Return the config with which `rexnet.training.loop.fit` trains a candidate once."""
        training = self.training
        run = RunConfig(
            batch_size=training.batch_size,
            seed=seed,
            device=self.engine.device,
            amp=training.amp,
            channels_last=training.channels_last,
        )
        return TrainConfig(
            data=self.data,
            augment=AugmentConfig(label_smoothing=training.label_smoothing),
            optim=self.optim,
            schedule=self.schedule,
            run=run,
        )

    def fingerprint(self) -> str:
        """Hash all settings that determine the result of training."""
        parts: dict[str, Any] = {
            name: asdict(getattr(self, name)) for name in ("space", "images", "training", "optim", "schedule")
        }
        return hashlib.sha256(json.dumps({"data": self.data, **parts}, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class SearchReportConfig:
    """Report the results of searches: groups by accuracy, their channels and lines, and predictors of accuracy."""

    searches: Annotated[tuple[str, ...], positional("SEARCH ...")]
    """Folders of searches; several are compared by their limits, and by the networks that they have in common."""
    output: str | None = None
    """Folder to write to; None: report, in the folder of the first search."""
    storage: str | None = None
    """Optuna's storage, as for search run; None: study.db in each folder."""
    study: str = EngineOptions.study
    """Name of the search in the storage."""

    def __post_init__(self) -> None:
        if not self.searches:
            raise ValueError("no search given; name the folder of one or more")
        if len(set(self.searches)) < len(self.searches):
            raise ValueError("a search is given twice; give each folder once")


BEST = "best"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a network found by a search to a file for `rexnet train --model` and `create_model`."""

    search: Annotated[str, positional("SEARCH")]
    """Folder of the search."""
    candidate: str = BEST
    """best (in the first objective), the number of a candidate, or channels such as 34-34-45-55-66."""
    output: str = "network.json"
    """File to write."""
    width: float | None = None
    """Write the candidate's least-squares line, with all channels times this width; None: the candidate itself."""
    stem_stride: int | None = None
    """Stride of the first convolution; None: that of the search. 2 for larger images, and for detectors."""
    strided_blocks: tuple[int, ...] | None = None
    """Blocks with stride 2, counted from 1; None: those of the search. Detectors need a total stride of 32."""
    storage: str | None = None
    """Optuna's storage, as for search run; None: study.db in the folder."""
    study: str = EngineOptions.study
    """Name of the search in the storage."""

    def __post_init__(self) -> None:
        require(self.width is None or self.width > 0, "width", self.width, "above 0, or None")
