"""All settings of a training run. A field is a command-line option, and the text under it is its help; defaults are
defined only here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

from rexnet.data.config import AugmentConfig, InputConfig
from rexnet.data.decode import BadImagePolicy
from rexnet.errors import OptionError, require, require_at_least
from rexnet.models.variants import model_config
from rexnet.options import Argument, Device, Resume, Threads, Workers, positional
from rexnet.processes import is_main_process
from rexnet.references import SAVED, find_network, resolve
from rexnet.training.metrics import Goal
from rexnet.training.run_folder import RunFolder
from rexnet.training.teacher_config import TeacherConfig

RecipeName = Literal["auto", "imagenet", "small-image", "finetune", "scratch"]
Amp = Literal["auto", "off", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Network and its initial weights."""

    model: str = "rexnet_100"
    """Network to train; `rexnet models` lists them. A family (rexnet, rexnetr, rexnet_lite) takes --width. Or a .json
    file of `rexnet search export`, or a run folder or checkpoint, whose network is trained from random weights."""
    width: Annotated[float | None, Argument(aliases=("--rex-width-mult",))] = None
    """Width multiplier of a family, for example --model rexnet --width 0.75."""
    stem_stride: int = 2
    """Stride of the stem; 1 doubles the resolution of every layer, for images of 32 to 64 pixels."""
    drop_rate: Annotated[float, Argument(aliases=("--drop",))] = 0.2
    """Dropout rate before the classifier."""
    drop_path_rate: Annotated[float, Argument(aliases=("--drop-path",))] = 0.0
    """Probability of skipping the last block, rising linearly from 0 at the first block; the paper's author recommends
    it for widths above 1.0."""
    zero_init_last: bool = False
    """Initialise every residual block as the identity, with zero scales in its last batch norm; --weights overrides
    it."""
    weights: Annotated[str | None, Argument(aliases=("--initial-checkpoint",))] = None
    """Initial weights. auto: for photos, the network's published weights, cached or downloaded; none: random weights.
    Or a run folder, a weights file, a folder of `rexnet card`, hf://OWNER/NAME or published weights such as
    rexnet_100.nav_in1k. Their classifier is kept if the class names are the same; otherwise a new one is trained."""
    weights_cache_only: bool = False
    """Use published weights and hf://OWNER/NAME only from the cache, as with HF_HUB_OFFLINE."""

    def __post_init__(self) -> None:
        require(self.stem_stride in (1, 2), "stem_stride", self.stem_stride, "1, 2")
        for name in ("drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, name, value, "from 0 to below 1")

    def check(self) -> None:
        """Raise OptionError if no network matches --model and --width; no network is built."""
        found = find_network(self.model, option="--model")
        try:
            model_config(str(found), width=self.width)
        except ValueError as error:
            raise OptionError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Layers and statistics to freeze at the values of --weights."""

    freeze: int | Literal["all"] = 0
    """Freeze the stem and this many blocks: no gradients, no updates of statistics. all: freeze everything before the
    head, which is then trained on precomputed features."""
    bn: Literal["auto", "train", "frozen"] = "auto"
    """Statistics of the batch norms: those of each batch (train), or those in --weights (frozen; scale and shift are
    still trained). auto: frozen with --weights and fewer than 16 images per process and batch, else train."""

    def __post_init__(self) -> None:
        require(self.freeze == "all" or self.freeze >= 0, "freeze", self.freeze, "0 or more, or all")
        if self.freeze == "all" and self.bn == "train":
            raise ValueError("--bn is train, but --freeze all keeps the statistics; allowed: auto, frozen")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, learning rate and regularisation."""

    optimizer: Annotated[str, Argument(aliases=("--opt",))] = "sgd"
    """One of timm's optimizers: sgd (with Nesterov momentum), momentum (without), adamw, lamb, ..."""
    lr: float = 0.5
    """Peak learning rate. Used unchanged if given; a recipe's default is scaled from --lr-batch to the total batch
    size."""
    lr_batch: int = 512
    """Total batch size for which --lr is meant; for other sizes it is scaled linearly. 0: no scaling."""
    momentum: float = 0.9
    """Momentum of SGD and similar optimizers; not used by the Adam family."""
    weight_decay: float = 1e-5
    """Weight decay, not applied to norms and biases."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a fraction of the next layer's, from the head down; 1: the same for all layers."""
    clip_grad: float | None = None
    """Maximum norm of the gradient of all parameters together."""
    ema_decay: Annotated[float | None, Argument(aliases=("--model-ema", "--model-ema-decay"), bare="0.9998")] = None
    """Decay of a moving average of the weights, which is evaluated and saved; the decay itself warms up to this
    value."""

    norm_images: int = 0
    """Training images on which the batch-norm statistics are measured before each evaluation; 0: use the running
    averages, which lag behind fast-changing weights."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.lr_batch >= 0, "lr_batch", self.lr_batch, "0 (no scaling) or more")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        require_at_least(self, 0, "weight_decay", "norm_images")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0 and at most 1")
        require(self.clip_grad is None or self.clip_grad > 0, "clip_grad", self.clip_grad, "above 0, or None")
        holds = self.ema_decay is None or 0 < self.ema_decay < 1
        require(holds, "ema_decay", self.ema_decay, "between 0 and 1, or None")

    def peak_lr(self, total_batch: int) -> float:
        """Return the peak learning rate for a total batch over all processes (linear scaling rule, arXiv
        1706.02677)."""
        return self.lr * total_batch / self.lr_batch if self.lr_batch else self.lr


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate at every step: linear warm-up, then the schedule."""

    schedule: Annotated[Literal["cosine", "linear", "constant", "multistep"], Argument(aliases=("--sched",))] = "cosine"
    """Decay of the learning rate after the warm-up; multistep: divide it by ten at each of --decay-milestones."""
    decay_milestones: tuple[int, ...] | None = None
    """Epochs after which --schedule multistep divides the learning rate by ten."""
    epochs: int = 400
    """Passes over the training images."""
    max_minutes: float | None = None
    """Time limit of the run in minutes from the start of the command: the number of epochs, at most the recipe's, is
    set once, from the speed of the first steps. Excludes --epochs."""
    measured: Annotated[dict[str, float], Argument(recorded=True)] = field(default_factory=dict)
    """With --max-minutes: the minutes, the seconds per step and per evaluation with its checkpoints, and the epochs
    that fit."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up; at most half of a short run."""
    warmup_lr: float = 1e-5
    """Learning rate of the first step of the warm-up."""
    min_lr: float = 0.0
    """Final learning rate."""
    restart_epochs: tuple[int, ...] = ()
    """Epochs after which the whole schedule restarts, including the warm-up (arXiv 1608.03983); --resume RUN with more
    --epochs adds the epoch from which a finished run continues."""
    patience: int | None = None
    """Stop early when the metric that selects best.pt has not improved for this many epochs."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "patience", "epochs")
        require_at_least(self, 0, "warmup_epochs", "warmup_lr", "min_lr")
        require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", self.max_minutes, "above 0, or None")
        for name in ("decay_milestones", "restart_epochs"):
            epochs = getattr(self, name) or ()
            rising = list(epochs) == sorted({epoch for epoch in epochs if epoch >= 1})
            require(rising, name, epochs, "ascending whole numbers from 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Run folder, hardware and reproducibility."""

    batch_size: Annotated[int, Argument(aliases=("-b",))] = 128
    """Images per batch and process."""
    accumulate: Annotated[int, Argument(aliases=("--grad-accum-steps",))] = 1
    """Batches per weight update. The update equals that of one large batch if the loss is a mean over images, as for
    classifiers, and batch norms are frozen; otherwise, batch norms see one batch at a time."""
    seed: int = 0
    """Seed of initial weights, image order, augmentation and dropout; the same seed repeats the run, with any
    --workers."""
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    amp: Annotated[Amp, Argument(bare="auto")] = "auto"
    """Mixed precision; auto: bf16 on GPUs that support it, fp16 on older GPUs, off elsewhere."""
    channels_last: bool = True
    """Memory format of images and weights; channels-last is faster on almost all hardware."""
    compile: bool = False
    """Compile the network with torch.compile: minutes to start, then faster steps."""
    output: str | None = None
    """Run folder to write; None: the next free runs/MODEL-DATA-N."""
    overwrite: bool = False
    """Replace an existing run in --output."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run folder."""
    resume: Resume = False
    """Continue the run in DIR from its newest checkpoint; without DIR, or with auto, continue the run in --output if
    there is one, else start a new run."""
    save_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; checkpoints are also written after every epoch, on SIGTERM and on
    Ctrl-C."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size", "accumulate", "threads")
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        require_at_least(self, 0, "workers")
        require(self.save_minutes > 0, "save_minutes", self.save_minutes, "above 0")
        if self.resume is not False and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other; give one of them")
        if self.resume is True and self.output is None:
            raise ValueError("--resume needs a run folder; give --resume DIR or --output DIR")
        if isinstance(self.resume, str) and self.output not in (None, self.resume):
            raise ValueError(f"--resume is {self.resume!r} but --output is {self.output!r}; give one of them")

    def check(self, *sources: str | None) -> None:
        """Raise ValueError if --output is in use, or if the run it replaces holds one of `sources`, the weights that
        the new run reads."""
        if self.output and not self.resume and is_main_process():
            run = RunFolder(self.output)
            run.refuse_used(overwrite=self.overwrite)
            run.refuse_source(*sources)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a classifier. The recipe sets the options that are not given; with DATA and --weights, --help shows their
    values."""

    data: Annotated[str, positional("DATA")] = "digits"
    """A folder with train/ and val|valid|validation|test/, a folder of class folders, digits, torchvision/NAME, a
    folder of tars or its URL, or hfds/NAME."""
    recipe: RecipeName = "auto"
    """Default settings, which every other option overrides. auto: finetune with weights, small-image for images up to
    64 pixels, otherwise scratch."""
    budget: Annotated[dict[str, int], Argument(recorded=True)] = field(default_factory=dict)
    """Images, epochs, batch size and steps for which the recipe chose its settings."""
    initial_weights: Annotated[dict[str, str], Argument(recorded=True)] = field(default_factory=dict)
    """Name and sha256 of the run's initial weights, or none and the reason."""
    goal: Goal = "top1"
    """Metric whose highest value on the validation split selects best.pt: top-1, or recall or F1 averaged over the
    classes."""
    network: NetworkConfig = NetworkConfig()
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig = field(default_factory=TransferConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        require(self.run.batch_size >= 2, "batch_size", self.run.batch_size, "2 or more, for batch norm")
        self.teacher.check(
            freeze=self.transfer.freeze,
            augment=self.augment,
            balance=self.input.balance,
            max_minutes=self.schedule.max_minutes,
        )

    def check(self) -> None:
        """Raise ValueError for a network, weights or a run folder that cannot be used, without reading the weights."""
        if self.run.resume:
            return
        self.network.check()
        if self.network.weights not in (None, "auto"):
            resolve(self.network.weights, allowed=SAVED, option="--weights")
        self.run.check(self.network.model, self.network.weights, *self.teacher.check_sources())

    @property
    def subject(self) -> tuple[str, str]:
        """Network and data."""
        return self.network.model, self.data


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Settings of the evaluation on labelled images."""

    batch_size: int = 64
    """Images per step and process."""
    bad_image: BadImagePolicy = "error"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    amp: Amp = "off"
    """Mixed precision; auto: bf16 on GPUs that support it, fp16 on older GPUs, off elsewhere."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size", "threads")
        require_at_least(self, 0, "workers")


class LoopConfig(Protocol):
    """Settings used by the loop and the run folder; each task has a frozen dataclass with these groups."""

    @property
    def optim(self) -> OptimConfig: ...

    @property
    def schedule(self) -> ScheduleConfig: ...

    @property
    def run(self) -> RunConfig: ...

    @property
    def subject(self) -> tuple[str, str]: ...  # names of the network and the data, for a new run folder
