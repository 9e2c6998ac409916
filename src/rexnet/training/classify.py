"""Classification on the one loop: train and validate."""

import json
import logging
import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.data.decode import printable
from rexnet.data.image_sets import ImageSets, load_image_sets, load_labelled_images
from rexnet.data.loaders import Batch, EvalBatches, TrainBatches
from rexnet.data.output_files import check_output_file, write_whole
from rexnet.data.transforms import TrainTransform, batch_mixer
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model
from rexnet.models.weights import load_weights, read_weights
from rexnet.training import checkpoint
from rexnet.training.config import NetworkConfig, TrainConfig, ValidateConfig
from rexnet.training.distributed import World, joined
from rexnet.training.evaluation import SizedBatches, evaluate
from rexnet.training.freezing import prepare
from rexnet.training.frozen_features import check_frozen_backbone, freeze_backbone, head_task
from rexnet.training.loop import Task, choose_autocast, fit
from rexnet.training.optimization import check_optimizer
from rexnet.training.run_folder import RunFolder, folder_to_resume, open_run
from rexnet.training.tensorboard_events import require_tensorboard

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains as `config` says and leaves everything in the run folder; returns what its summary.json holds.

    Raises ValueError, one sentence, for settings, data or weights that do not go together.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if config.run.tensorboard:
        require_tensorboard()
    with joined(config.run.device) as world:
        # Nothing is written, and no older run replaced, before settings, data and weights are known to go together.
        sets = _load_sets(config, world)
        torch.manual_seed(config.run.seed)
        resumes = config.run.resume and RunFolder(folder_to_resume(config)).has_checkpoint
        network = replace(config.network, weights=None) if resumes else config.network
        model = build_model(network, sets.classes)
        pretrained = config.network.weights is not None
        prepare(model, config.transfer, pretrained=pretrained, images_per_step=config.run.batch_size)
        if config.transfer.freeze == "all":
            check_frozen_backbone(config)
        check_optimizer(model, config.optim, config.schedule, total_batch=config.run.batch_size * world.size)
        batches = _make_batches(sets, config, world)
        with closing(open_run(config, world)) as run:
            _note_sets(sets, run, world)
            try:
                best, skipped = _fit(model, sets, batches, config, run, world)
            except KeyboardInterrupt:
                if world.is_main:
                    logger.warning("`rexnet train --resume %s` continues where it stopped", run.path)
                raise
            facts = {"run": str(run.path), "model": model.name, "data": sets.description}
            summary = {**facts, "best": best, "skipped": skipped}
            if world.is_main:
                run.write("summary.json", summary)
                logger.info("best top-1 %.2f %%, of epoch %d: %s", best["val_top1"], best["epoch"], run.best)
    return summary


def _make_batches(sets: ImageSets, config: TrainConfig, world: World) -> tuple[TrainBatches, EvalBatches]:
    """Training and held-back batches of this process. ValueError for augmentation that cannot be carried out."""
    preprocess = config.input.preprocess()
    transform = TrainTransform(preprocess, config.augment)
    loading = _loading(config, world)
    mixer = batch_mixer(config.augment, len(sets.classes))
    train_batches = TrainBatches(sets.train, transform, seed=config.run.seed, mixer=mixer, **loading)
    return train_batches, EvalBatches(sets.val, preprocess, **loading)


def _loading(config: TrainConfig, world: World) -> dict[str, Any]:
    return {
        "batch_size": config.run.batch_size,
        "workers": choose_workers(config.run.workers, world),
        "rank": world.rank,
        "world_size": world.size,
        "bad_image": config.input.bad_image,
        "pin_memory": world.device.type == "cuda",
    }


def _fit(
    model: RexNet,
    sets: ImageSets,
    batches: tuple[TrainBatches, EvalBatches],
    config: TrainConfig,
    run: RunFolder,
    world: World,
) -> tuple[dict, list[str]]:
    """The best epoch's row, and the images that could not be read."""
    if config.transfer.freeze == "all":
        return _fit_head(model, sets, batches[0], config=config, run=run, world=world)
    train_batches, val_batches = batches
    task = classification_task(sets, val_batches, config, world=world)
    best = fit(model, train_batches, task, config=config, run=run, world=world)
    skipped = world.gather([*train_batches.skipped, *val_batches.skipped])
    return best, sorted({printable(name) for name in skipped})


def _fit_head(
    model: RexNet, sets: ImageSets, order: TrainBatches, *, config: TrainConfig, run: RunFolder, world: World
) -> tuple[dict, list[str]]:
    """`_fit` on features that are computed once."""
    in_order = partial(EvalBatches, preprocess=config.input.preprocess(), **_loading(config, world))
    frozen = freeze_backbone(model, sets, order, in_order=in_order, config=config, run=run, world=world)
    task = head_task(classification_task(sets, frozen.val, config, world=world), model)
    best = fit(frozen.head, frozen.train, task, config=config, run=run, world=world)
    return best, sorted(printable(name) for name in frozen.skipped)


def classification_task(sets: ImageSets, val_batches: SizedBatches, config: TrainConfig, *, world: World) -> Task:
    """Cross-entropy on batches of `sets.train`, accuracy on `val_batches`."""
    dtype = choose_autocast(config.run.amp, world.device)

    def evaluate_held_back(network: nn.Module) -> dict[str, float]:
        return evaluate(network, val_batches, classes=sets.classes, world=world, autocast_dtype=dtype).figures()

    return Task(
        loss=partial(classification_loss, device=world.device, label_smoothing=config.augment.label_smoothing),
        evaluate=evaluate_held_back,
        pack=partial(checkpoint.pack, classes=sets.classes, preprocess=config.input.preprocess()),
        name_image=sets.train.name,
    )


def classification_loss(
    model: nn.Module, batch: Batch, *, device: torch.device, label_smoothing: float
) -> dict[str, Tensor]:
    """Cross-entropy of a batch with class indices (B,), or with soft targets (B, K) that are smooth already."""
    images = batch.images.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    logits = model(images)
    soft = targets.ndim == 2
    loss = functional.cross_entropy(logits.float(), targets, label_smoothing=0.0 if soft else label_smoothing)
    right = logits.argmax(dim=1) == (targets.argmax(dim=1) if soft else targets)
    return {"loss": loss, "top1": 100.0 * right.float().mean()}


def build_model(config: NetworkConfig, classes: tuple[str, ...]) -> RexNet:
    """The network for these classes, with `config.weights` in it.

    The classifier of the weights stays where their class names are the same, and starts anew otherwise.
    """
    model = create_model(
        config.model,
        width=config.width,
        stem_stride=config.stem_stride,
        num_classes=len(classes),
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
    )
    if config.weights is not None:
        weights = read_weights(config.weights)
        if weights.config and weights.config["stem_stride"] != config.stem_stride:
            raise ValueError(
                f"--stem-stride is {config.stem_stride}, but {config.weights} was trained with "
                f"{weights.config['stem_stride']}; give that"
            )
        load_weights(model, weights, classifier="strict" if weights.classes == classes else "reset")
    return model


def choose_workers(workers: int | None, world: World) -> int:
    """Loader processes: as asked, or up to 8 beside a GPU and none where the CPU computes as well."""
    if workers is not None:
        return workers
    return min(8, (os.cpu_count() or 1) // world.size) if world.device.type == "cuda" else 0


def _load_sets(config: TrainConfig, world: World) -> ImageSets:
    # The main process goes first: only one may download.
    for turn in (True, False):
        if world.is_main == turn:
            sets = load_image_sets(config.data, val_fraction=config.input.val_fraction, seed=config.run.seed)
        world.wait()
    return sets


def _note_sets(sets: ImageSets, run: RunFolder, world: World) -> None:
    """Writes down what the data is, or checks that a resumed run's is what it began with."""
    facts = {"description": sets.description, "classes": list(sets.classes)}
    if run.holds("data.json"):
        if (saved := run.read("data.json")) != facts:
            raise ValueError(
                f"the data is not what {run.path} began with: {sets.description}, instead of {saved['description']}"
            )
    elif world.is_main:
        run.write("data.json", facts)
        run.save_samples(sets.val)
    world.wait()
    if world.is_main:
        logger.info("%s", sets.description)


def validate(config: ValidateConfig) -> dict[str, Any]:
    """Accuracy of a checkpoint on labelled images, matched by class name and preprocessed as in its training.

    Keys: top1 and top5 (percent), loss, images (counted), skipped (names), missing_classes (names) and by_class. Raises
    ValueError, one sentence, for a file or data that cannot be used.
    """
    if config.output is not None:
        check_output_file(config.output)
    if config.threads:
        torch.set_num_threads(config.threads)
    model = checkpoint.load(config.checkpoint)
    with joined(config.device) as world:
        images = load_labelled_images(config.data, model.classes, split=config.split)
        batches = EvalBatches(
            images,
            model.preprocess,
            batch_size=config.batch_size,
            workers=choose_workers(config.workers, world),
            rank=world.rank,
            world_size=world.size,
            bad_image=config.bad_image,
        )
        network = model.to(world.device).to(memory_format=torch.channels_last)
        dtype = choose_autocast(config.amp, world.device)
        counted = evaluate(network, batches, classes=model.classes, world=world, autocast_dtype=dtype)
        result = {
            "model": model.name,
            "checkpoint": config.checkpoint,
            "data": config.data,
            **counted.figures(),
            "skipped": sorted(printable(name) for name in world.gather(batches.skipped)),
            "missing_classes": list(images.missing_classes),
            "by_class": counted.by_class(),
        }
    if config.output is not None and world.is_main:
        write_whole(config.output, json.dumps(result, indent=2) + "\n")
    return result
