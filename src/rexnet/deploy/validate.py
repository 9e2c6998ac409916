"""Validation of a trained classifier on labelled images."""

import json
import shlex
from typing import Any

import torch
from torch import nn

from rexnet.data.datasets import open_dataset
from rexnet.data.loaders import EvalBatches
from rexnet.deploy.config import ValidateConfig
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.engines.backends import NetworkModule, open_network
from rexnet.engines.config import CPU_BACKENDS, Engine
from rexnet.errors import WeightsError
from rexnet.files import write_whole
from rexnet.loading import load
from rexnet.training.distributed import joined
from rexnet.training.evaluation import evaluate
from rexnet.training.loop import choose_autocast
from rexnet.training.session import loader_options, skipped_images


def validate(config: ValidateConfig) -> dict[str, Any]:
    """Return the accuracy of a checkpoint on labelled images, matched by class name and preprocessed as in training.

    Keys: top1, top5, macro_recall and macro_f1 (percent), loss, images (count), skipped (names), missing_classes
    (names) and by_class, as in `Evaluation`. If the checkpoint was trained on this data and the data has no splits, it
    is divided as in training. Raise ValueError for a file or data that cannot be used.
    """
    config.check()
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load(config.checkpoint, network=config.model)
    if isinstance(model, TrainedDetector):
        data = shlex.quote(config.data) if open_dataset(config.data).annotation_files else "COCO_DIR"
        command = f"rexnet detect validate {shlex.quote(config.checkpoint)} {data}"
        raise WeightsError(f"{config.checkpoint!r} holds a detector; `{command}` evaluates it")
    on_cpu = config.device == "auto" and config.backend in CPU_BACKENDS
    with joined("cpu" if on_cpu else config.device) as world:
        images = world.in_turns(
            lambda: open_dataset(config.data).for_measuring(
                model.classes, split=config.split, random_split=getattr(model, "split", None)
            )
        )
        batches = EvalBatches(
            images,
            model.preprocess,
            **loader_options(world, batch_size=config.batch_size, workers=config.workers, bad_image=config.bad_image),
        )
        network = _open(model, config, world.device)
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


def _open(model: Any, config: ValidateConfig, device: torch.device) -> nn.Module:
    if config.backend == "torch":
        return model.to(device).to(memory_format=torch.channels_last)
    engine = Engine(backend=config.backend, precision=config.precision, threads=config.threads)
    size_px = model.preprocess.image_size_px
    return NetworkModule(open_network(model, engine, device=device, size_px=size_px))
