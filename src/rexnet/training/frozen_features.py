"""Training of only the head, on features that the frozen part of a network computes once. Images are transformed as in
evaluation; with horizontal flips, also their mirror images. Everything else is unchanged: the loop, the order of the
images, dropout, schedule, moving average, and checkpoints, which hold whole networks.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import ImageSets
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch, EvalBatches, TrainBatches
from rexnet.errors import OptionError
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.feature_file import FILE, TORCH, Features, engine_of, read_features, write_features
from rexnet.training.loop import Task, choose_autocast
from rexnet.training.progress import EpochProgress
from rexnet.training.resume import newest_checkpoint
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

Embed = Callable[[Tensor], Tensor]
"""Function from images (B, C, H, W) to their features after pooling, (B, num_features)."""
FeatureEngine = Callable[[RexNet], Embed | None]
"""Function that opens a network in an engine above this package, in fp32 on the CPU; it returns None for a network or
machine on which the engine does not run."""
MAX_GIB = 4.0
"""Maximum size of the features, which stay in memory in full precision; writing them to the run folder takes two more
copies."""

_STILL_APPLIES = ("horizontal_flip", "label_smoothing")
_VIEW = 3  # first entry of every seed, unlike any in rexnet.data.batch_reading


class Head(nn.Module):
    """Layers of `model` after pooling, with the same state-dict keys: (B, C) -> logits (B, K)."""

    def __init__(self, model: RexNet):
        super().__init__()
        self.output = model.output

    def forward(self, features: Tensor) -> Tensor:
        return self.output(features[:, :, None, None]).flatten(1)


class FeatureBatches:
    """Batches in the order of `order`, with features (B, C) instead of images, from mirror images with probability
    `mirror`. Unreadable images are skipped; a batch left with fewer than two images is filled up with others.
    """

    def __init__(
        self, features: Features, targets: np.ndarray, *, order: TrainBatches, seed: int, rank: int, mirror: float
    ):
        self._values, self._targets = features.values, torch.from_numpy(targets)
        self._readable, self._order = features.readable.numpy() > 0, order
        self.images_per_batch, self.num_images = order.images_per_batch, order.num_images
        self._seed, self._rank, self._mirror = seed, rank, mirror
        if self._readable.sum() < 2:
            raise ValueError(f"fewer than 2 of the {len(targets):,} training images can be read")

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """See `TrainBatches.epoch`."""
        for step, positions in list(enumerate(self._order.positions(epoch)))[start_step:]:
            chosen = positions[self._readable[positions]]
            if len(chosen) < 2:
                others = np.setdiff1d(np.flatnonzero(self._readable), chosen)
                chosen = np.concatenate([chosen, others[: 2 - len(chosen)]])
            random = np.random.default_rng([_VIEW, self._seed, epoch, step, self._rank])
            views = torch.from_numpy((random.random(len(chosen)) < self._mirror).astype(np.int64))
            indices = torch.from_numpy(chosen)
            yield Batch(self._values[views, indices], self._targets[indices], indices)


class FrozenBackbone(NamedTuple):
    """A task of the loop on features instead of images."""

    head: Head
    train: FeatureBatches
    val: list[Batch]
    """Batches of this process."""
    skipped: list[str]
    """Names of the images that could not be read."""


def check_frozen_backbone(config: TrainConfig) -> None:
    """Raise OptionError for a setting that has no effect on precomputed features."""
    settings: list[tuple[str, Any, Any]] = [
        (field.name, getattr(config.augment, field.name), field.default)
        for field in fields(AugmentConfig)
        if field.name not in _STILL_APPLIES
    ]
    settings += [("layer_decay", config.optim.layer_decay, 1.0)]
    settings += [("drop_path_rate", config.network.drop_path_rate, 0.0)]
    settings += [("compile", config.run.compile, False)]
    settings += [("max_minutes", config.schedule.max_minutes, None)]
    for name, value, default in settings:
        if value != default:
            raise OptionError(
                f"--{name.replace('_', '-')} is {value}, which has no effect with --freeze all; allowed: {default}"
            )


def freeze_backbone(
    model: RexNet,
    sets: ImageSets,
    order: TrainBatches,
    *,
    in_order: Callable[[ImageSet], EvalBatches],
    config: TrainConfig,
    run: RunFolder,
    world: World,
    native: FeatureEngine | None = None,
) -> FrozenBackbone:
    """Compute the features of all images, or read them from the run folder if weights, preprocessing and images are the
    same.

    In fp32 on a CPU, `native` computes them where it runs, else PyTorch. A resumed run takes its backbone from its
    checkpoint. Raise ValueError if the features exceed `MAX_GIB`.
    """
    mirror = config.augment.horizontal_flip
    check_size(model.num_features * ((1 + (mirror > 0)) * len(sets.train) + len(sets.val)), "--freeze all", mirror)
    # Let all processes read the run's weights before any of them may overwrite them.
    if content := newest_checkpoint(run, world):
        model.load_state_dict(content["state_dict"])
    train, val = _features_of_all(model, sets, native, in_order=in_order, config=config, run=run, world=world)
    return FrozenBackbone(
        head=Head(model),
        train=FeatureBatches(
            train, sets.train.targets, order=order, seed=config.run.seed, rank=world.rank, mirror=mirror
        ),
        val=_batches_of_process(val, sets.val.targets, batch_size=config.run.batch_size, world=world),
        skipped=[
            images.name(index)
            for images, features in ((sets.train, train), (sets.val, val))
            for index in (features.readable == 0).nonzero()[:, 0].tolist()
        ],
    )


def check_size(values: int, option: str, mirror: float) -> None:
    """Raise ValueError if the features exceed `MAX_GIB`."""
    if (gib := values * 4 / 2**30) > MAX_GIB:
        hint = "; --horizontal-flip 0 nearly halves that" if mirror else ""
        raise ValueError(f"the features of {option} take {gib:.1f} GiB; allowed: up to {MAX_GIB:g} GiB{hint}")


def _features_of_all(
    model: RexNet,
    sets: ImageSets,
    native: FeatureEngine | None,
    *,
    in_order: Callable[[ImageSet], EvalBatches],
    config: TrainConfig,
    run: RunFolder,
    world: World,
) -> list[Features]:
    """Return the features of the training and validation images, read from the run folder, or computed and written
    there."""
    started = time.perf_counter()
    key = features_key(model, sets, config)
    stored = read_features(run, key) if world.is_main else None
    known = any(world.any(stored is not None))
    mirrored = config.augment.horizontal_flip > 0
    parts = stored or [_no_features(model, sets.train, views=1 + mirrored), _no_features(model, sets.val, views=1)]
    if not known:
        engine, embed = _open_engine(model, native, config=config, world=world)
        for images, features in zip((sets.train, sets.val), parts, strict=True):
            compute_features(embed, in_order(images), features, config=config, world=world)
    # Each process has computed its own part, and has zeros for the other parts.
    found = [Features(*map(world.sum, features)) for features in parts]
    if world.is_main:
        if not known:
            write_features(run, key, found, engine=engine)
        mib = sum(part.nbytes for features in found for part in features) / 2**20
        text = "features of all images: %.1f MiB in memory, engine: %s, %s %s in %.1f s"
        how = "read from" if known else "computed and written to"
        logger.info(text, mib, engine_of(run), how, run.path / FILE, time.perf_counter() - started)
    return found


def head_task(task: Task, model: RexNet) -> Task:
    """Adapt a `task` for whole networks to the `Head` of `model`; its checkpoints still hold whole networks."""

    def pack(head: nn.Module, metrics: dict[str, Any]) -> dict[str, Any]:
        content = task.pack(model, metrics)
        return {**content, "state_dict": {**content["state_dict"], **checkpoint.portable(head.state_dict())}}

    def own(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key.startswith("output.")}

    return task._replace(pack=pack, own=own)


def _open_engine(
    model: RexNet, native: FeatureEngine | None, *, config: TrainConfig, world: World
) -> tuple[str, Embed]:
    """Return the name of the engine that computes the features, the same on every process, and its function."""
    full_precision = choose_autocast(config.run.amp, world.device) is None
    embed = native(model) if native and world.device.type == "cpu" and full_precision else None
    runs_everywhere = not any(world.any(embed is None))
    if embed and runs_everywhere:
        return "native", embed
    layout = torch.channels_last if config.run.channels_last else torch.preserve_format
    # Folding the batch norms saves a fifth to a third of the time on a CPU (results/backbone_cpu.jsonl).
    network = fold(model).to(world.device).to(memory_format=layout)
    return TORCH, lambda images: network.forward_features(images).mean((2, 3))


@torch.inference_mode()
def compute_features(
    embed: Embed, batches: EvalBatches, features: Features, *, config: TrainConfig, world: World
) -> None:
    """Fill `features` with `embed` of this process's part of the images, transformed as in evaluation."""
    dtype = choose_autocast(config.run.amp, world.device)
    with EpochProgress("features", len(batches), visible=world.is_main) as progress:
        for batch in progress.watch(batches):
            images = batch.images.to(world.device, non_blocking=True)
            for view, values in enumerate(features.values):
                seen = images.flip(3) if view else images
                with torch.autocast(world.device.type, dtype=dtype, enabled=dtype is not None):
                    embedded = embed(seen)
                values[batch.indices] = embedded.float().cpu()
            features.readable[batch.indices] = 1.0
            progress.update(len(images), {})


def _no_features(model: RexNet, images: ImageSet, *, views: int) -> Features:
    return Features(torch.zeros(views, len(images), model.num_features), torch.zeros(len(images)))


def _batches_of_process(features: Features, targets: np.ndarray, *, batch_size: int, world: World) -> list[Batch]:
    """Return this process's batches of the unflipped images, divided as by `EvalBatches`."""
    batches = []
    for indices in torch.arange(world.rank, len(targets), world.size).split(batch_size):
        indices = indices[features.readable[indices] > 0]
        if len(indices):
            batches.append(Batch(features.values[0, indices], torch.from_numpy(targets)[indices], indices))
    return batches


def features_key(model: RexNet, sets: ImageSets, config: TrainConfig) -> str:
    """Return the SHA-256 of everything that the features depend on; for the images, only of their names and number."""
    augment, run = config.augment, config.run
    sizes = [len(sets.train), len(sets.val)]
    facts = [config.input.preprocess().to_dict(), run.amp, augment.horizontal_flip > 0, sizes]
    names = [images.name(index) for images in (sets.train, sets.val) for index in range(len(images))]
    known = [json.dumps(facts).encode(), *(name.encode("utf-8", "surrogateescape") + b"\0" for name in names)]
    return checkpoint.hash_weights(model.features.state_dict(), b"".join(known))
