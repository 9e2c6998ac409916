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
from rexnet.files import write_whole
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from rexnet.text import reason_of
from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.loop import Task, choose_autocast
from rexnet.training.progress import EpochProgress
from rexnet.training.resume import newest_checkpoint
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "features.safetensors"
MAX_GIB = 4.0
"""Maximum size of the features, which stay in memory in full precision; writing them to the run folder takes two more
copies."""

_STILL_APPLIES = ("horizontal_flip", "label_smoothing")
_VIEW = 3  # first entry of every seed, unlike any in rexnet.data.batch_reading


class Features(NamedTuple):
    """Features of N images: `values` float32 (V, N, C), after pooling, with V = 1, or V = 2 to include the mirror
    images; `readable` float32 (N,), 1 or 0."""

    values: Tensor
    readable: Tensor


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
) -> FrozenBackbone:
    """Compute the features of all images, or read them from the run folder if weights, preprocessing and images are the
    same.

    A resumed run takes its backbone from its checkpoint. Raise ValueError if the features exceed `MAX_GIB`.
    """
    mirror = config.augment.horizontal_flip
    check_size(model.num_features * ((1 + (mirror > 0)) * len(sets.train) + len(sets.val)), "--freeze all", mirror)
    # Let all processes read the run's weights before any of them may overwrite them.
    if content := newest_checkpoint(run, world):
        model.load_state_dict(content["state_dict"])
    train, val = _features_of_all(model, sets, in_order=in_order, config=config, run=run, world=world)
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
    found = []
    for split, images in enumerate((sets.train, sets.val)):
        mirrored = split == 0 and config.augment.horizontal_flip > 0
        features = stored[split] if stored else _no_features(model, images, views=1 + mirrored)
        if not known:
            compute_features(_embedding(model, config, world), in_order(images), features, config=config, world=world)
        # Each process has computed its own part, and has zeros for the other parts.
        found.append(Features(*(world.sum(part) for part in features)))
    if world.is_main:
        if not known:
            write_features(run, key, found)
        mib = sum(part.nbytes for features in found for part in features) / 2**20
        text = "features of all images: %.1f MiB in memory, %s %s in %.1f s"
        how = "read from" if known else "computed and written to"
        logger.info(text, mib, how, run.path / FILE, time.perf_counter() - started)
    return found


def head_task(task: Task, model: RexNet) -> Task:
    """Adapt a `task` for whole networks to the `Head` of `model`; its checkpoints still hold whole networks."""

    def pack(head: nn.Module, metrics: dict[str, Any]) -> dict[str, Any]:
        content = task.pack(model, metrics)
        return {**content, "state_dict": {**content["state_dict"], **checkpoint.portable(head.state_dict())}}

    def own(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key.startswith("output.")}

    return task._replace(pack=pack, own=own)


def _embedding(model: RexNet, config: TrainConfig, world: World) -> Callable[[Tensor], Tensor]:
    """Return a function from images to their features after pooling."""
    layout = torch.channels_last if config.run.channels_last else torch.preserve_format
    # Folding the batch norms saves a fifth to a third of the time on a CPU (results/backbone_cpu.jsonl).
    network = fold(model).to(world.device).to(memory_format=layout)
    return lambda images: network.forward_features(images).mean((2, 3))


@torch.inference_mode()
def compute_features(
    embed: Callable[[Tensor], Tensor], batches: EvalBatches, features: Features, *, config: TrainConfig, world: World
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


def write_features(run: RunFolder, key: str, found: list[Features]) -> None:
    from safetensors.torch import save

    tensors = {f"{part}.{split}": tensor for split, each in enumerate(found) for part, tensor in each._asdict().items()}
    try:
        write_whole(run.path / FILE, save(tensors, metadata={"key": key}))
    except OSError as error:
        text = "%s could not be written (%s), so --resume will compute the features again"
        logger.warning(text, run.path / FILE, reason_of(error))


def read_features(run: RunFolder, key: str) -> list[Features] | None:
    """Read the features; return None if they are missing, damaged, or from other weights, preprocessing or images."""
    from safetensors import SafetensorError, safe_open

    if not run.holds(FILE):
        return None
    try:
        with safe_open(run.path / FILE, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return [
                Features(file.get_tensor(f"values.{split}"), file.get_tensor(f"readable.{split}")) for split in (0, 1)
            ]
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s) and is computed again", run.path / FILE, error)
        return None
