"""Validation of a trained detector on labelled images."""

import dataclasses
import json
from typing import Any

import torch

from rexnet.data.boxes.loaders import EvalDetectionBatches
from rexnet.data.datasets import open_dataset
from rexnet.detection.checkpoints import load_detector
from rexnet.detection.coco_rows import require_evaluator
from rexnet.detection.config import DetectValidateConfig
from rexnet.detection.evaluation import evaluate_detector
from rexnet.detection.plot import draw_precision_recall
from rexnet.files import check_output_file, write_whole
from rexnet.text import printable
from rexnet.training.distributed import joined
from rexnet.training.loop import choose_autocast
from rexnet.training.session import loader_options, skipped_images


def validate(config: DetectValidateConfig) -> dict[str, Any]:
    """Return COCO's metrics of a checkpoint, whose classes are matched by name.

    Keys: figures (metrics in percent; see `CocoResult`), by_class, curves, skipped (names). Raise ValueError for a file
    or data that cannot be used.
    """
    check_output_file(config.output)
    check_output_file(config.curves, option="--curves")
    if config.threads:
        torch.set_num_threads(config.threads)
    require_evaluator()
    trained = load_detector(config.checkpoint)
    with joined(config.device) as world:
        images = open_dataset(config.data).boxes_to_measure(config.split, trained.classes, bad_image=config.bad_image)
        batches = EvalDetectionBatches(
            images,
            **loader_options(world, batch_size=config.batch_size, workers=config.workers, bad_image=config.bad_image),
        )
        model = trained.model.to(world.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        dtype = choose_autocast(config.amp, world.device)
        found = evaluate_detector(model, batches, images, world=world, autocast_dtype=dtype)
        skipped = sorted({*skipped_images((batches,), world), *map(printable, images.skipped)})
    result = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        "figures": found.metrics,
        "by_class": found.by_class,
        "curves": {kind: dataclasses.asdict(curve) for kind, curve in found.curves.items()},
        "skipped": skipped,
    }
    if world.is_main:
        if config.output is not None:
            write_whole(config.output, json.dumps(result, indent=2) + "\n")
        if config.curves is not None:
            draw_precision_recall(found, config.curves)
    return result
