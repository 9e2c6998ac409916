"""Measuring a trained detector on labelled images."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro

from rexnet.data.boxes.coco import refuse_missing_files
from rexnet.data.boxes.loaders import EvalDetectionBatches
from rexnet.data.datasets import open_dataset
from rexnet.data.decode import BadImagePolicy
from rexnet.detection.checkpoints import load_detector
from rexnet.detection.evaluation import evaluate_detector, require_evaluator
from rexnet.detection.plot import draw_precision_recall
from rexnet.errors import require
from rexnet.files import check_output_file, write_whole
from rexnet.training.config import Amp
from rexnet.training.distributed import joined
from rexnet.training.loop import choose_autocast
from rexnet.training.session import loader_options, skipped_images


@dataclass(frozen=True, kw_only=True)
class DetectValidateConfig:
    """Measures a trained detector on images with boxes, by COCO's rules."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint of `rexnet detect train`, or a folder of `rexnet card` or hf://OWNER/NAME."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COCO_DIR")]
    """A folder in COCO's layout, as for `rexnet detect train`."""
    split: Literal["val", "train", "test"] = "val"
    """Split to measure on."""
    batch_size: int = 4
    """Images a step and process."""
    bad_image: BadImagePolicy = "error"
    """What to do with a file that cannot be read: stop and name it, or leave it out, name and count it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    workers: int | None = None
    """Processes that read images; None: up to 8 beside a GPU, none beside a CPU that computes as well."""
    threads: int | None = None
    """CPU threads of PyTorch; None leaves its choice."""
    amp: Amp = "off"
    """Mixed precision; auto: bf16 on GPUs that have it, fp16 on older ones, off elsewhere."""
    output: str | None = None
    """Also write the result, with every class and the curves, to this JSON file."""
    curves: str | None = None
    """Also draw precision against recall into this PNG file."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "0 or more, or None")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")


def validate(config: DetectValidateConfig) -> dict[str, Any]:
    """COCO's figures of a checkpoint, its classes matched by name.

    Keys: figures (percent; see `CocoResult`), by_class, curves, skipped (names). Raises ValueError, one sentence, for a
    file or data that cannot be used.
    """
    for path in (config.output, config.curves):
        if path is not None:
            check_output_file(path)
    if config.threads:
        torch.set_num_threads(config.threads)
    require_evaluator()
    trained = load_detector(config.checkpoint)
    with joined(config.device) as world:
        images = open_dataset(config.data).boxes_to_measure(config.split, trained.classes)
        if config.bad_image == "error":
            refuse_missing_files(images)
        batches = EvalDetectionBatches(
            images,
            **loader_options(world, batch_size=config.batch_size, workers=config.workers, bad_image=config.bad_image),
        )
        model = trained.model.to(world.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        dtype = choose_autocast(config.amp, world.device)
        found = evaluate_detector(model, batches, images, world=world, autocast_dtype=dtype)
        skipped = skipped_images((batches,), world)
    result = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        **{field.name: _plain(getattr(found, field.name)) for field in dataclasses.fields(found)},
        "skipped": skipped,
    }
    if world.is_main:
        if config.output is not None:
            write_whole(config.output, json.dumps(result, indent=2) + "\n")
        if config.curves is not None:
            draw_precision_recall(found, config.curves)
    return result


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value
