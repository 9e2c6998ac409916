"""Measuring a trained classifier on labelled images."""

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro

from rexnet.data.datasets import open_dataset
from rexnet.data.decode import BadImagePolicy
from rexnet.data.loaders import EvalBatches
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.errors import WeightsError, require
from rexnet.files import check_output_file, write_whole
from rexnet.loading import load
from rexnet.training.config import Amp
from rexnet.training.distributed import joined
from rexnet.training.evaluation import evaluate
from rexnet.training.loop import choose_autocast
from rexnet.training.session import loader_options, skipped_images


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Measures a trained classifier on labelled images."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint of `rexnet train`, published weights such as rexnet_100.nav_in1k, a folder of
    `rexnet card` or hf://OWNER/NAME, timm/NAME, or a weights file."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of class folders, a folder with val|valid|validation|test/, digits, torchvision/NAME, a folder of tars
    or its URL, or hfds/NAME."""
    model: str | None = None
    """The network of a weights file that does not say it: a name, a JSON file or timm/NAME."""
    split: Literal["val", "train"] = "val"
    """The side to measure on, where the data has two or was split for the training of CHECKPOINT."""
    batch_size: int = 64
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
    """Also write the result, with every class, to this JSON file."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "0 or more, or None")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")


def validate(config: ValidateConfig) -> dict[str, Any]:
    """Accuracy of a checkpoint on labelled images, matched by class name and preprocessed as in its training.

    Keys: top1, top5, macro_recall and macro_f1 (percent), loss, images (counted), skipped (names), missing_classes
    (names) and by_class, as of `Evaluation`. Data without a split of its own that the checkpoint was trained on is
    split as it was then. Raises ValueError, one sentence, for a file or data that cannot be used.
    """
    if config.output is not None:
        check_output_file(config.output)
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load(config.checkpoint, network=config.model)
    if isinstance(model, TrainedDetector):
        command = f"rexnet detect validate {shlex.quote(config.checkpoint)} {shlex.quote(config.data)}"
        raise WeightsError(f"{config.checkpoint!r} holds a detector; `{command}` measures it")
    with joined(config.device) as world:
        images = world.in_turns(
            lambda: open_dataset(config.data).for_measuring(
                model.classes, split=config.split, drawn=getattr(model, "split", None)
            )
        )
        batches = EvalBatches(
            images,
            model.preprocess,
            **loader_options(world, batch_size=config.batch_size, workers=config.workers, bad_image=config.bad_image),
        )
        network = model.to(world.device).to(memory_format=torch.channels_last)
        dtype = choose_autocast(config.amp, world.device)
        counted = evaluate(network, batches, classes=model.classes, world=world, autocast_dtype=dtype)
        result = {
            "model": getattr(model, "name", config.checkpoint),
            "checkpoint": config.checkpoint,
            "data": config.data,
            **counted.metrics(),
            "skipped": skipped_images((batches,), world),
            "missing_classes": list(images.missing_classes),
            "by_class": counted.by_class(),
        }
    if config.output is not None and world.is_main:
        write_whole(config.output, json.dumps(result, indent=2) + "\n")
    return result
