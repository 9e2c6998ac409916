"""Every setting of a run. A field is a command-line option, and the text under it is its help; defaults are defined
only here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

from rexnet.data.config import AugmentConfig, InputConfig
from rexnet.data.datasets import check_images
from rexnet.data.decode import BadImagePolicy
from rexnet.errors import OptionError, require, require_at_least
from rexnet.models.variants import model_config
from rexnet.options import Argument, Device, Resume, Threads, Workers, positional
from rexnet.processes import is_main_process
from rexnet.references import PREDICTABLE, SAVED, find_network, resolve
from rexnet.training.metrics import Goal
from rexnet.training.run_folder import RunFolder
from rexnet.training.teacher_config import TeacherConfig

RecipeName = Literal["auto", "imagenet", "small-image", "finetune", "scratch"]
Amp = Literal["auto", "off", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Network and its initial weights."""

    model: str = "rexnet_100"
    """Network to train; `rexnet models` lists them. A family (rexnet, rexnetr, rexnet_lite) takes --width. Also the
    .json file of `rexnet search export`, or a run folder or checkpoint whose network is trained from random weights."""
    width: Annotated[float | None, Argument(aliases=("--rex-width-mult",))] = None
    """Width multiplier of a family, for example --model rexnet --width 0.75."""
    stem_stride: int = 2
    """Stride of the stem; 1 gives every layer twice the resolution, for images of 32 to 64 pixels."""
    drop_rate: Annotated[float, Argument(aliases=("--drop",))] = 0.2
    """Dropout rate before the classifier."""
    drop_path_rate: Annotated[float, Argument(aliases=("--drop-path",))] = 0.0
    """Probability of skipping the last block, rising linearly from 0 at the first; the paper's author recommends it
    above width 1.0."""
    zero_init_last: bool = False
    """Begin every block with a shortcut as that shortcut, with zero scales in its last norm; --weights replace them."""
    weights: Annotated[str | None, Argument(aliases=("--initial-checkpoint",))] = None
    """auto: for photos, published weights of the network, cached or downloaded; none: random ones. Or a run folder, a
    weights file, a folder of `rexnet card`, hf://OWNER/NAME or published weights such as rexnet_100.nav_in1k. Their
    classifier is kept if the class names are the same, otherwise a new one is trained."""
    weights_cache_only: bool = False
    """Look for published weights and hf://OWNER/NAME only in the cache, as with HF_HUB_OFFLINE."""

    def __post_init__(self) -> None:
        require(self.stem_stride in (1, 2), "stem_stride", self.stem_stride, "1, 2")
        for name in ("drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, name, value, "from 0 to below 1")

    def check(self) -> None:
        """Raise OptionError if no network matches --model and --width; nothing is built."""
        try:
            found = find_network(self.model)
        except OptionError as error:
            raise OptionError(f"--model: {error}") from error
        try:
            model_config(str(found), width=self.width)
        except ValueError as error:
            raise OptionError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Layers and statistics that keep the values of --weights."""

    freeze: int | Literal["all"] = 0
    """Freeze the stem and this many blocks: no gradient, no update of statistics. all: everything before the head,
    which is then trained on precomputed features."""
    bn: Literal["auto", "train", "frozen"] = "auto"
    """Statistics of the batch norms: of each batch (train), or kept and used as they are (frozen; scale and shift are
    still trained). auto: frozen with --weights and fewer than 16 images a process and batch, else train."""

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
    """Peak learning rate. Used unchanged if given; a recipe's own is for --lr-batch images."""
    lr_batch: int = 512
    """Total batch size for which the learning rate is meant: it scales linearly with other sizes. 0: no scaling."""
    momentum: float = 0.9
    """Momentum of SGD and similar optimizers; the Adam family has none."""
    weight_decay: float = 1e-5
    """Weight decay, never on norms and biases."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a fraction of the next one's, from the head down; 1: the same for all."""
    clip_grad: float | None = None
    """Maximum norm of the whole gradient."""
    ema_decay: Annotated[float | None, Argument(aliases=("--model-ema", "--model-ema-decay"), bare="0.9998")] = None
    """Decay of a moving average of the weights, which is evaluated and saved; it increases to this value during
    warm-up."""

    norm_images: int = 0
    """Training images on which the statistics of batch norms are measured before each evaluation; 0: running averages,
    which lag behind weights that change fast."""

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
        """Return the learning rate for a total batch over all processes (linear scaling rule, arXiv 1706.02677)."""
        return self.lr * total_batch / self.lr_batch if self.lr_batch else self.lr


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate at every step: linear warm-up, then the schedule."""

    schedule: Annotated[Literal["cosine", "linear", "constant", "multistep"], Argument(aliases=("--sched",))] = "cosine"
    """Decay of the learning rate after the warm-up; multistep: to a tenth after each of --decay-milestones."""
    decay_milestones: tuple[int, ...] | None = None
    """Epochs after which --schedule multistep continues with a tenth of the learning rate."""
    epochs: int = 400
    """Passes over the training images."""
    max_minutes: float | None = None
    """Minutes from the start of the command within which the run ends: the speed of the first steps decides, once, how
    many epochs it has, at most the recipe's. Not together with --epochs."""
    measured: Annotated[dict[str, float], Argument(recorded=True)] = field(default_factory=dict)
    """With --max-minutes: minutes, seconds of a step and of an evaluation with its checkpoints, epochs that fit."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up; at most half of a short run."""
    warmup_lr: float = 1e-5
    """Learning rate of the first step of the warm-up."""
    min_lr: float = 0.0
    """Final learning rate."""
    restart_epochs: tuple[int, ...] = ()
    """Epochs after which the whole schedule starts again, warm-up included (arXiv 1608.03983); --resume RUN with more
    --epochs adds the epoch at which a finished run continues."""
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
    """Batches per weight update. It equals that of one large batch if the loss is a mean over images, as for
    classifiers, and batch norms are frozen; other batch norms see one batch at a time."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout; the same seed repeats the run, with any --workers."""
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    amp: Annotated[Amp, Argument(bare="auto")] = "auto"
    """Mixed precision; auto: bf16 on GPUs that have it, fp16 on older ones, off elsewhere."""
    channels_last: bool = True
    """Memory format of images and weights; channels-last is faster on almost all hardware."""
    compile: bool = False
    """Use torch.compile: minutes to start, then faster steps."""
    output: str | None = None
    """Run folder; None: the next free runs/MODEL-DATA-N."""
    overwrite: bool = False
    """Replace the run in --output."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder."""
    resume: Resume = False
    """Continue the run in DIR at the step of its newest checkpoint; without DIR, or with auto, continue the run in
    --output if there is one, else start a new one."""
    save_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; others are written after every epoch and on SIGTERM and Ctrl-C."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size", "accumulate")
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        require_at_least(self, 0, "workers")
        require_at_least(self, 1, "threads")
        require(self.save_minutes > 0, "save_minutes", self.save_minutes, "above 0")
        if self.resume is not False and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other; give one of them")
        if self.resume is True and self.output is None:
            raise ValueError("--resume needs a run folder; give --resume DIR or --output DIR")
        if isinstance(self.resume, str) and self.output not in (None, self.resume):
            raise ValueError(f"--resume is {self.resume!r} but --output is {self.output!r}; give one of them")

    def check(self, *sources: str | None) -> None:
        """Raise ValueError for an --output that is in use, or whose replaced run is one of `sources`, the weights that
        the new run reads."""
        if self.output and not self.resume and is_main_process():
            run = RunFolder(self.output)
            run.refuse_used(overwrite=self.overwrite)
            run.refuse_source(*sources)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a classifier. Options that are not given come from the recipe: given DATA and --weights, --help shows the
    values that would be used."""

    data: Annotated[str, positional("DATA")] = "digits"
    """A folder with train/ and val|valid|validation|test/, a folder of class folders, digits, torchvision/NAME, a
    folder of tars or its URL, or hfds/NAME."""
    recipe: RecipeName = "auto"
    """Settings to start from; every other option overrides them. auto: finetune with weights, small-image for
    images up to 64 pixels, otherwise scratch."""
    budget: Annotated[dict[str, int], Argument(recorded=True)] = field(default_factory=dict)
    """Images, epochs, batch size and steps for which the recipe scratch chose its settings."""
    initial_weights: Annotated[dict[str, str], Argument(recorded=True)] = field(default_factory=dict)
    """Name and sha256 of the weights that the run starts from; or none and the reason."""
    goal: Goal = "top1"
    """Metric on the validation split whose highest value selects best.pt: top-1, or the mean over the classes of recall
    or F1."""
    network: NetworkConfig = NetworkConfig()
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig = field(default_factory=TransferConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        batch_size = self.run.batch_size
        require(batch_size >= 2, "batch_size", batch_size, "2 or more (batch norm in squeeze-excitation)")
        self.teacher.check(
            freeze=self.transfer.freeze,
            augment=self.augment,
            balance=self.input.balance,
            max_minutes=self.schedule.max_minutes,
        )

    def check(self) -> None:
        """Raise ValueError for a network, weights or a run folder that cannot be used; no weights are read."""
        if self.run.resume:
            return
        self.network.check()
        if self.network.weights not in (None, "auto"):
            resolve(self.network.weights, allowed=SAVED)
        teacher = self.teacher
        self.run.check(self.network.model, self.network.weights, teacher.teacher_weights, *teacher.teacher)
        for name in (*teacher.teacher, teacher.teacher_weights):
            if name is not None:
                resolve(name, allowed=PREDICTABLE)
        if teacher.unlabelled is not None:
            check_images(teacher.unlabelled)

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
    """Mixed precision; auto: bf16 on GPUs that have it, fp16 on older ones, off elsewhere."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size")
        require_at_least(self, 0, "workers")
        require_at_least(self, 1, "threads")


class LoopConfig(Protocol):
    """Settings that the loop and the run folder read; each task has a frozen dataclass with these groups."""

    @property
    def optim(self) -> OptimConfig: ...

    @property
    def schedule(self) -> ScheduleConfig: ...

    @property
    def run(self) -> RunConfig: ...

    @property
    def subject(self) -> tuple[str, str]: ...  # network and data, for the name of a new run folder
