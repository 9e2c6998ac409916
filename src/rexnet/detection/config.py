"""Every setting of a detector's training. A field is a command-line option, the text under it its help."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rexnet.data.config import DetectionAugmentConfig
from rexnet.data.decode import BadImagePolicy
from rexnet.errors import OptionError, require
from rexnet.options import positional
from rexnet.training.config import MeasureOptions, OptimConfig, RunConfig, ScheduleConfig

Kind = Literal["faster_rcnn", "mask_rcnn", "ssdlite"]
RecipeName = Literal["small", "1x", "2x", "3x"]
GOALS: dict[Kind, str] = {"faster_rcnn": "box_ap", "mask_rcnn": "mask_ap", "ssdlite": "box_ap"}
"""The figure of the held-back images whose highest value makes best.pt."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Which detector, on which network, and what it starts from."""

    detector: Kind = "faster_rcnn"
    """faster_rcnn and ssdlite find boxes, mask_rcnn boxes and masks; ssdlite is the fastest."""
    model: str = "rexnet_100"
    """Network below the detector; `rexnet models` lists them, any width goes, as rexnet_050."""
    weights: str | None = None
    """Start from a network's file or published weights such as rexnet_100.nav_in1k, or from a detector that `rexnet
    detect train` made; its last layers are kept where the class names are the same."""
    bn: Literal["auto", "train", "frozen"] = "auto"
    """Statistics of the network's batch norms: of each batch (train), or kept as they are (frozen). auto: frozen with
    --weights and fewer than 16 images a process and step, else train."""
    min_size: int | None = None
    """Pixels that an image's shorter side is resized to; None: 800, of ssdlite 320."""
    max_size: int | None = None
    """Limit of the longer side in pixels; None: 1333, of ssdlite the shorter."""
    proposals: int | None = None
    """Regions an image that faster_rcnn and mask_rcnn look at closely; None: 1000. Fewer are faster, and enough where
    images hold few objects."""

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size"):
            value = getattr(self, name)
            require(value is None or value >= 32, name, value, "32 or more, or None")
        require(self.proposals is None or self.proposals >= 8, "proposals", self.proposals, "8 or more, or None")

    def overrides(self) -> dict[str, int]:
        """The fields of DetectorConfig that are asked for."""
        square = self.detector == "ssdlite" and self.max_size is None
        asked = {
            "min_size_px": self.min_size,
            "max_size_px": self.min_size if square else self.max_size,
            "proposals": self.proposals,
        }
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class DetectTrainConfig:
    """Trains a detector on a folder in COCO's layout."""

    data: Annotated[str, positional("COCO_DIR")] = ""
    """A folder with annotations/instances_train*.json and instances_val*.json, or train.json and val.json, and their
    images; `rexnet detect convert` makes one from Pascal VOC and YOLO folders, `rexnet detect demo` one to try."""
    recipe: RecipeName = "small"
    """Settings to start from; every other option overrides them. small: some hundred to thousand images; 1x, 2x, 3x:
    COCO's schedules of 12, 24 and 36 epochs, for ssdlite 100, 200 and 300."""
    network: DetectorOptions = DetectorOptions()
    bad_image: BadImagePolicy = "error"
    augment: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def check(self) -> None:
        """ValueError for groups that do not go together; not at construction, where the recipe is not known yet."""
        if not self.data:
            raise ValueError("no data given; name a folder in COCO's layout, or make one with rexnet detect demo")
        if self.network.detector != "ssdlite":
            return
        for name, value in (("short-side-px", self.augment.short_side_px), ("proposals", self.network.proposals)):
            if value:
                reason = "takes every image as one square and has no second stage"
                raise OptionError(f"--{name} is {value}, but ssdlite {reason}; allowed: none")

    @property
    def subject(self) -> tuple[str, str]:
        """Detector with its network, and data."""
        return f"{self.network.detector}-{self.network.model}", self.data

    @property
    def goal(self) -> str:
        """The figure that chooses best.pt."""
        return GOALS[self.network.detector]


@dataclass(frozen=True, kw_only=True)
class DetectValidateConfig(MeasureOptions):
    """Measures a trained detector on images with boxes, by COCO's rules."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or a checkpoint of `rexnet detect train`, or a folder of `rexnet card` or hf://OWNER/NAME."""
    data: Annotated[str, positional("COCO_DIR")]
    """A folder in COCO's layout, as for `rexnet detect train`."""
    split: Literal["val", "train", "test"] = "val"
    """Split to measure on."""
    batch_size: int = 4
    """Images a step and process."""
    output: str | None = None
    """Also write the result, with every class and the curves, to this JSON file."""
    curves: str | None = None
    """Also draw precision against recall into this PNG file."""


@dataclass(frozen=True, kw_only=True)
class DetectPredictConfig:
    """Finds objects in images, draws them and writes them down."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or a checkpoint of `rexnet detect train`, a folder of `rexnet card` or hf://OWNER/NAME, or a .onnx
    or .xml file of `rexnet export`."""
    images: Annotated[tuple[str, ...], positional("IMAGE|FOLDER|PATTERN ...")]
    """Image files, folders (read with all sub-folders) or patterns such as 'photos/*.jpg'."""
    out: str
    """Folder for the drawn images and detections.json, a list of COCO result rows; made if missing, files in it that
    have other names stay."""
    min_score: float = 0.5
    """Draw and count what is at least this sure, 0 to 1; detections.json has everything the detector puts out."""
    font: str | None = None
    """Font file for class names; None: DejaVu Sans, or one of this system that has their characters."""
    bad_image: BadImagePolicy = "error"
    """What to do with a file that cannot be read: stop and name it, or name it and go on."""
    batch_size: int = 1
    """Images a step."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; exported files run on the CPU."""
    threads: int | None = None
    """CPU threads of reading images and of computing; None: one for each CPU."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("no images given; name files, folders or patterns such as 'photos/*.jpg'")
        require(0 <= self.min_score <= 1, "min_score", self.min_score, "from 0 to 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Draw circles, triangles, squares and crosses with boxes and masks, as a folder in COCO's layout."""

    output: Annotated[str, positional("OUTPUT")] = "shapes"
    """A new or empty folder."""
    images: int = 400
    """Training images; there are a quarter as many to validate on."""
    size_px: int = 128
    """Side of an image."""
    seed: int = 0
    """The same seed draws the same images."""

    def __post_init__(self) -> None:
        require(self.images >= 4, "images", self.images, "4 or more")
        require(self.size_px >= 32, "size_px", self.size_px, "32 or more")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
