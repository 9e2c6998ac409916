"""Classification on the one loop."""

import logging
import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.data.class_balance import class_weights
from rexnet.data.datasets import ImageSets, open_dataset
from rexnet.data.loaders import Batch, EvalBatches, TrainBatches
from rexnet.data.transforms import TrainTransform, batch_mixer
from rexnet.errors import OptionError
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model
from rexnet.models.weights import load_weights, read_weights
from rexnet.text import printable
from rexnet.training import checkpoint
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.distributed import World, joined
from rexnet.training.evaluation import SizedBatches, evaluate
from rexnet.training.freezing import prepare
from rexnet.training.frozen_features import check_frozen_backbone, freeze_backbone, head_task
from rexnet.training.loop import Task, choose_autocast, fit
from rexnet.training.memory import keep_freed_memory
from rexnet.training.optimization import check_optimizer
from rexnet.training.run_folder import DATA, RunFolder, folder_to_resume, local_path, open_run
from rexnet.training.summary import resumable, write_summary
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
        if world.device.type == "cpu":
            keep_freed_memory()
        # Nothing is written, and no older run replaced, before settings, data and weights are known to go together.
        sets = _load_sets(config, world)
        torch.manual_seed(config.run.seed)
        resumes = config.run.resume and RunFolder(folder_to_resume(config)).has_checkpoint
        network = replace(config.network, weights=None) if resumes else config.network
        model = build_model(network, sets.classes)
        pretrained = config.network.weights is not None
        frozen = prepare(model, config.transfer, pretrained=pretrained, images_per_step=config.run.batch_size)
        if config.transfer.freeze == "all":
            check_frozen_backbone(config)
        check_optimizer(model, config.optim, config.schedule, total_batch=config.run.batch_size * world.size)
        if world.is_main:
            _warn_of_few_pixels(model, config.input.image_size)
        batches = _make_batches(sets, config, world)
        with closing(open_run(config, world)) as run:
            _note_sets(sets, config, run=run, world=world)
            if world.is_main:
                logger.info("recipe %s", config.recipe)
                logger.info("%s", frozen)
            with resumable(run, world, command="rexnet train"):
                best, skipped = _fit(model, sets, batches, config=config, run=run, world=world)
            facts = {"model": model.name, "data": sets.description}
            return write_summary(run, facts, best, goal=config.goal, skipped=skipped, world=world)


def _warn_of_few_pixels(model: RexNet, image_size_px: int) -> None:
    """One cell of the last feature map that the image fills is few, but can be meant; less than one is padding."""
    stride = model.config.output_stride
    if image_size_px < stride:
        text = "--image-size %d is below the stride of %s, %d: its last layers see mostly padding; %s would suit it"
        better = f"{2 * stride} or more" + (", or --stem-stride 1," if model.config.stem_stride > 1 else "")
        logger.warning(text, image_size_px, model.name, stride, better)


def _make_batches(sets: ImageSets, config: TrainConfig, world: World) -> tuple[TrainBatches, EvalBatches]:
    """Training and held-back batches of this process. ValueError for augmentation that cannot be carried out."""
    preprocess = config.input.preprocess()
    transform = TrainTransform(preprocess, config.augment)
    loading = _loading(config, world)
    train_batches = TrainBatches(
        sets.train,
        transform,
        seed=config.run.seed,
        device=world.device,
        mixer=batch_mixer(config.augment, len(sets.classes)),
        balanced=config.input.balance == "sampler",
        **loading,
    )
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
    *,
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

    loss = partial(
        classification_loss,
        device=world.device,
        label_smoothing=config.augment.label_smoothing,
        weights=_loss_weights(sets, config, world),
    )
    return Task(
        loss=loss,
        evaluate=evaluate_held_back,
        pack=partial(checkpoint.pack, classes=sets.classes, preprocess=config.input.preprocess(), split=sets.drawn),
        name_image=sets.train.name,
        goal=config.goal,
    )


def classification_loss(
    model: nn.Module, batch: Batch, *, device: torch.device, label_smoothing: float, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Cross-entropy of a batch with class indices (B,), or with soft targets (B, K) that are smooth already.

    `weights` (K,) are those of the images of each class, see `image_weights`; the sum is divided by the images, not by
    their weights, so that batches of several processes and of one give the same gradient.
    """
    images = batch.images.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    logits = model(images)
    soft = targets.ndim == 2
    smoothing = 0.0 if soft else label_smoothing
    if weights is None:
        loss = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    else:
        losses = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        loss = (image_weights(targets, weights, label_smoothing) * losses).mean()
    right = logits.argmax(dim=1) == (targets.argmax(dim=1) if soft else targets)
    return {"loss": loss, "top1": 100.0 * right.float().mean()}


def image_weights(targets: Tensor, weights: Tensor, label_smoothing: float) -> Tensor:
    """The weight (B,) of each image: that of its class, or of a mixed one the mean of both by their shares.

    Weights belong to images and leave targets alone: weighting each term of a smooth target instead, as
    `cross_entropy(weight=...)` does, would make a rare class probable for every image. `label_smoothing` is what soft
    targets hold of it.
    """
    if targets.ndim == 1:
        return weights[targets]
    # Not a matrix product, which autocast would round.
    return ((targets * weights).sum(dim=1) - label_smoothing * weights.mean()) / (1.0 - label_smoothing)


def _warn_of_idle_balance(sets: ImageSets, balance: str) -> None:
    counts = np.bincount(sets.train.targets, minlength=len(sets.classes))
    if balance != "none" and len(set(counts.tolist())) == 1:
        logger.warning("--balance %s has no effect: each class has %d training images", balance, counts[0])


def _loss_weights(sets: ImageSets, config: TrainConfig, world: World) -> Tensor | None:
    """float32 (K,) on the device; None where the loss is not to balance the classes."""
    if config.input.balance != "loss":
        return None
    weights = class_weights(sets.train.targets, len(sets.classes))
    if world.is_main:
        logger.info("an image weighs %.3g to %.3g in the loss, by its class", weights.min(), weights.max())
    return torch.tensor(weights, dtype=torch.float32, device=world.device)


def build_model(config: NetworkConfig, classes: tuple[str, ...]) -> RexNet:
    """The network for these classes, with `config.weights` in it.

    The classifier of the weights stays where their class names are the same, and starts anew otherwise.
    """
    try:
        model = create_model(
            config.model,
            width=config.width,
            stem_stride=config.stem_stride,
            num_classes=len(classes),
            drop_rate=config.drop_rate,
            drop_path_rate=config.drop_path_rate,
        )
    except ValueError as error:  # of --model or --width
        raise OptionError(str(error)) from error
    if config.weights is not None:
        weights = read_weights(config.weights)
        if weights.config and weights.config["stem_stride"] != config.stem_stride:
            raise OptionError(
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
    wanted = {"val_fraction": config.input.val_fraction, "seed": config.run.seed, "shots": config.input.shots}
    return world.in_turns(lambda: open_dataset(config.data).for_training(**wanted))


def _note_sets(sets: ImageSets, config: TrainConfig, *, run: RunFolder, world: World) -> None:
    """Writes down what the data is, or checks that a resumed run's is what it began with."""
    new = not run.holds(DATA)
    run.note_data(replace(sets.facts(), path=local_path(config.data)), main=world.is_main)
    if new and world.is_main:
        run.save_samples(sets.val)
    world.wait()
    if world.is_main:
        logger.info("%s", sets.description)
        _warn_of_idle_balance(sets, config.input.balance)
