"""Options of the detection commands. A field is an option, and the text under it is its help."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rexnet.data.config import DetectionAugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_files import require_images
from rexnet.errors import OptionError, require, require_at_least, require_package
from rexnet.files import check_output_file, check_output_folder
from rexnet.options import Device, positional
from rexnet.references import BACKBONES, DETECTORS, OWN_WEIGHTS, SAVED, refuse_swapped, resolve
from rexnet.training.config import MeasureOptions, OptimConfig, RunConfig, ScheduleConfig

Kind = Literal["faster_rcnn", "mask_rcnn", "ssdlite"]
RecipeName = Literal["small", "1x", "2x", "3x"]
GOALS: dict[Kind, str] = {"faster_rcnn": "box_ap", "mask_rcnn": "mask_ap", "ssdlite": "box_ap"}
"""Metric whose highest value on the validation split selects best.pt."""
EVALUATOR = ("scoring detections", "hotcoco", "'rexnet[detect]'")
"""Arguments of `require_package`."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Detector, its backbone and its initial weights."""

    detector: Kind = "faster_rcnn"
    """Kind of detector: faster_rcnn and ssdlite find boxes, mask_rcnn boxes and masks; ssdlite is the fastest."""
    model: str = "rexnet_100"
    """Backbone of the detector, from `rexnet models`, at any width, such as rexnet_050."""
    weights: str | None = None
    """Initial weights: a file with a network's weights, published weights such as rexnet_100.nav_in1k, or a detector of
    `rexnet detect train`, whose last layers are kept if the class names are the same."""
    zero_init_last: bool = False
    """Initialise every residual block of the backbone as the identity, with zero scales in its last batch norm;
    --weights overrides it."""
    bn: Literal["auto", "train", "frozen"] = "auto"
    """Statistics of the backbone's batch norms: those of each batch (train), or those in --weights (frozen). auto:
    frozen with --weights and fewer than 16 images per process and batch, else train."""
    min_size: int | None = None
    """Size in pixels to which an image's shorter side is resized; None: 800, for ssdlite 320."""
    max_size: int | None = None
    """Maximum of the longer side in pixels; None: 1333, for ssdlite the shorter side."""
    proposals: int | None = None
    """Proposals per image for the second stage of faster_rcnn and mask_rcnn; None: 1000. Fewer proposals are faster,
    and suffice for images with few objects."""

    def __post_init__(self) -> None:
        require_at_least(self, 32, "min_size", "max_size")
        require_at_least(self, 8, "proposals")

    def check(self) -> None:
        """Raise WeightsError for a backbone or weights that do not exist, without building or reading anything."""
        resolve(self.model, allowed=BACKBONES, option="--model")
        if self.weights is not None:
            resolve(self.weights, allowed=SAVED, option="--weights")

    def overrides(self) -> dict[str, int]:
        """Return those fields of DetectorConfig that are set."""
        square = self.detector == "ssdlite" and self.max_size is None
        asked = {
            "min_size_px": self.min_size,
            "max_size_px": self.min_size if square else self.max_size,
            "proposals": self.proposals,
        }
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class DetectTrainConfig:
    """Train a detector on a folder in COCO's layout."""

    data: Annotated[str, positional("COCO_DIR")] = ""
    """A folder with annotations/instances_train*.json and instances_val*.json, or train.json and val.json, and their
    images; `rexnet detect convert` converts Pascal VOC and YOLO folders, and `rexnet detect demo` makes a small
    example."""
    recipe: RecipeName = "small"
    """Default settings, which every other option overrides. small: for a few hundred to a thousand images; 1x, 2x, 3x:
    for COCO, with 12, 24 and 36 epochs, or 100, 200 and 300 for ssdlite."""
    network: DetectorOptions = DetectorOptions()
    bad_image: BadImagePolicy = "error"
    augment: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def check(self) -> None:
        """Raise ValueError for options that contradict each other; call it after the recipe has set the defaults."""
        if not self.data:
            raise OptionError("no data given; give a folder in COCO's layout, or make one with `rexnet detect demo`")
        require_package(*EVALUATOR)
        if not self.run.resume:
            self.network.check()
            self.run.check(self.network.model, self.network.weights)
            open_dataset(self.data).require_boxes()
        if self.network.detector != "ssdlite":
            return
        for name, value in (("short-side-px", self.augment.short_side_px), ("proposals", self.network.proposals)):
            if value:
                reason = "takes every image as one square and has no second stage"
                raise OptionError(f"--{name} is {value}, but ssdlite {reason}; allowed: none")

    @property
    def subject(self) -> tuple[str, str]:
        """Return the name of the model, from detector and backbone, and the name of the data."""
        return f"{self.network.detector}-{self.network.model}", self.data

    @property
    def goal(self) -> str:
        """Return the metric that selects best.pt."""
        return GOALS[self.network.detector]


@dataclass(frozen=True, kw_only=True)
class DetectValidateConfig(MeasureOptions):
    """Measure COCO's metrics of a trained detector on images with boxes."""

    checkpoint: Annotated[str, positional("MODEL")]
    """Run folder or checkpoint of `rexnet detect train`, folder of `rexnet card`, or hf://OWNER/NAME."""
    data: Annotated[str, positional("COCO_DIR")]
    """Folder in COCO's layout, as for `rexnet detect train`."""
    split: Literal["val", "train", "test"] = "val"
    """Split to measure on."""
    batch_size: int = 4
    """Images per step and process."""
    output: str | None = None
    """Also write the result, with every class and the curves, to this JSON file."""
    curves: str | None = None
    """Also plot precision against recall to this PNG file."""

    def check(self) -> None:
        """Raise ValueError for a model, data or output that cannot be used, and for a missing package."""
        require_package(*EVALUATOR)
        check_output_file(self.output)
        check_output_file(self.curves, option="--curves")
        refuse_swapped(self.checkpoint, self.data, command="detect validate")
        resolve(self.checkpoint, allowed=OWN_WEIGHTS)
        open_dataset(self.data).require_boxes()


@dataclass(frozen=True, kw_only=True)
class DetectPredictConfig:
    """Detect objects in images; plot them and write them to detections.json."""

    checkpoint: Annotated[str, positional("MODEL")]
    """Run folder or checkpoint of `rexnet detect train`, folder of `rexnet card`, hf://OWNER/NAME, or a .onnx or .xml
    file of `rexnet export`."""
    images: Annotated[tuple[str, ...], positional("IMAGE|FOLDER|PATTERN ...")]
    """Image files, folders (with all subfolders) or patterns such as 'photos/*.jpg'."""
    out: str
    """Folder for the plots and detections.json, a list of COCO result rows; created if missing. Other files in it
    stay."""
    min_score: float = 0.5
    """Minimum score, 0 to 1, of detections to plot and count; detections.json has all detections."""
    font: str | None = None
    """Font file for class names; None: DejaVu Sans, or a system font that has the required characters."""
    bad_image: BadImagePolicy = "error"
    """Handling of unreadable files: stop at the first (error), or log and skip them (skip)."""
    batch_size: int = 1
    """Images per step."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads for reading images and computing; None: one per CPU."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("no images given; name files, folders or patterns such as 'photos/*.jpg'")
        require(0 <= self.min_score <= 1, "min_score", self.min_score, "from 0 to 1")
        require_at_least(self, 1, "batch_size", "threads")

    def check(self) -> None:
        """Raise ValueError for a model, images or a folder that cannot be used."""
        check_output_folder(self.out, option="--out", allowed="a new folder, or one whose other files stay")
        refuse_swapped(self.checkpoint, self.images[-1], command="detect predict")
        require_images(self.images)
        resolve(self.checkpoint, allowed=DETECTORS)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Make a small folder in COCO's layout: random circles, triangles, squares and crosses with boxes and masks."""

    output: Annotated[str, positional("OUTPUT")] = "shapes"
    """New or empty folder to write to."""
    images: int = 400
    """Number of training images; the validation split has a quarter as many."""
    size_px: int = 128
    """Side of an image in pixels."""
    seed: int = 0
    """Seed of the random images; the same seed makes the same images."""

    def __post_init__(self) -> None:
        require_at_least(self, 4, "images")
        require_at_least(self, 32, "size_px")
        require_at_least(self, 0, "seed")
