"""Teachers in distillation: trained networks, with a classifier for the student's classes if theirs differ."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.data.datasets import ImageSets
from rexnet.data.image_set import ImageSet
from rexnet.data.imagenet import name_wordnet_ids
from rexnet.data.loaders import EvalBatches
from rexnet.data.preprocess import Preprocess
from rexnet.files import write_whole
from rexnet.text import normal_name
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.feature_file import Features
from rexnet.training.frozen_features import check_size, compute_features
from rexnet.training.run_folder import TEACHERS, TEACHERS_CLASSIFIERS, RunFolder

logger = logging.getLogger(__name__)

PENALTY = 1e-3
"""L2 penalty of a fitted classifier's weights, on standardised features. Our choice."""

ReadBatches = Callable[[ImageSet, Preprocess], EvalBatches]


class Teacher(NamedTuple):
    """Trained network, opened by `rexnet.deploy.teachers`."""

    name: str
    network: nn.Module
    """Images transformed by `preprocess` -> logits."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    preprocess: Preprocess
    sha256: str
    """SHA-256 of the weights."""


class Guide:
    """Teacher for the student's classes: its logits (B, K) are `classify(embed(images))`.

    `classifier`, weight (K, C) and bias (K,), is fitted on features if the teacher lacks a class, and None otherwise.
    """

    def __init__(self, teacher: Teacher, classes: Sequence[str]):
        self.teacher = teacher
        self.classifier: tuple[Tensor, Tensor] | None = None
        known = {normal_name(name): position for position, name in enumerate(teacher.classes)}
        names = [normal_name(name) for name in name_wordnet_ids(classes, teacher.classes)]
        self.knows_classes = known.keys() >= set(names)
        self._positions = [known[name] for name in names] if self.knows_classes else []

    def embed(self, images: Tensor) -> Tensor:
        """Return the teacher's logits if it has all classes; else the input (B, C) of its classifier or, if that is not
        accessible, as in a graph, its logits."""
        network: Any = self.teacher.network
        if self.knows_classes or not hasattr(network, "forward_head"):
            return network(images)
        return network.forward_head(network.forward_features(images), pre_logits=True)

    def classify(self, embedded: Tensor) -> Tensor:
        if self.classifier is None:
            return embedded[:, self._positions]
        return functional.linear(embedded, *self.classifier)


def prepare_guides(
    teachers: Sequence[Teacher],
    sets: ImageSets,
    *,
    read_batches: ReadBatches,
    config: TrainConfig,
    run: RunFolder,
    world: World,
) -> list[Guide]:
    """Return the teachers for the classes of `sets`, evaluated on the validation images with their own preprocessing. A
    teacher that lacks a class gets a classifier, fitted on its features of the training images and, if these are
    flipped in training, of their mirror images. A resumed run reads these classifiers from its folder.
    """
    guides = [Guide(teacher, sets.classes) for teacher in teachers]
    for guide in guides:
        guide.teacher.network.to(world.device).to(memory_format=torch.channels_last).eval()
    stored = world.from_main(_read(run) if world.is_main else None)
    if stored is None:
        embed = partial(_embed_all, read_batches=read_batches, config=config, world=world)
        rows = [
            _measure(guide, sets, embed, mirror=config.augment.horizontal_flip > 0, world=world) for guide in guides
        ]
        if world.is_main:
            _write(run, guides, rows)
    for number, guide in enumerate(guides):
        if stored is not None and not guide.knows_classes:
            guide.classifier = stored[f"weight.{number}"], stored[f"bias.{number}"]
        if guide.classifier is not None:
            weight, bias = guide.classifier
            guide.classifier = weight.to(world.device), bias.to(world.device)
    return guides


def _measure(
    guide: Guide, sets: ImageSets, embed: Callable[..., Features], *, mirror: bool, world: World
) -> dict[str, Any]:
    """Fit the guide's classifier if it needs one; return a description of it and its accuracy on the validation
    images."""
    if not guide.knows_classes:
        found = embed(guide, sets.train, views=1 + mirror)
        read = found.readable > 0
        targets = torch.from_numpy(sets.train.targets)[read].repeat(1 + mirror)
        fit = partial(fit_classifier, found.values[:, read].flatten(0, 1), targets, num_classes=len(sets.classes))
        guide.classifier = world.from_main(fit() if world.is_main else None)
    found = embed(guide, sets.val, views=1)
    read = found.readable.numpy() > 0
    predicted = guide.classify(found.values[0]).argmax(1).numpy()
    top1 = 100 * float(np.mean(predicted[read] == sets.val.targets[read]))
    head = "its own" if guide.knows_classes else "fitted"
    if world.is_main:
        text = "teacher %s: top-1 %.1f %% on the validation images, classifier: %s"
        logger.info(text, guide.teacher.name, top1, head)
    return {"teacher": guide.teacher.name, "sha256": guide.teacher.sha256, "classifier": head, "val_top1": top1}


@torch.no_grad()
def _embed_all(
    guide: Guide, images: ImageSet, *, views: int, read_batches: ReadBatches, config: TrainConfig, world: World
) -> Features:
    """Return the outputs of the guide's teacher for all images and, if `views` is 2, their mirror images; each process
    computes its part."""
    preprocess = guide.teacher.preprocess
    side = preprocess.image_size_px
    channels = guide.embed(torch.zeros(2, 3, side, side, device=world.device)).shape[1]
    check_size(channels * views * len(images), "--teacher", views - 1)
    features = Features(torch.zeros(views, len(images), channels), torch.zeros(len(images)))
    compute_features(guide.embed, read_batches(images, preprocess), features, config=config, world=world)
    return Features(*(world.sum(part) for part in features))


def fit_classifier(features: Tensor, targets: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return weight (K, C) and bias (K,) of the logistic regression of targets (N,) on features (N, C), with PENALTY on
    the weights; deterministic."""
    values = features.double()
    mean, spread = values.mean(0), values.std(0, correction=0).clamp_min(1e-6)
    values = (values - mean) / spread
    weight = torch.zeros(num_classes, values.shape[1], dtype=values.dtype, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=values.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(values, weight, bias), targets)
        loss = loss + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(compute_loss)  # pyright: ignore[reportArgumentType]
    scaled = weight.detach() / spread
    return scaled.float(), (bias.detach() - scaled @ mean).float()


def _write(run: RunFolder, guides: Sequence[Guide], rows: list[dict[str, Any]]) -> None:
    from safetensors.torch import save

    tensors = {
        f"{part}.{number}": tensor
        for number, guide in enumerate(guides)
        for part, tensor in zip(("weight", "bias"), guide.classifier or (), strict=False)
    }
    write_whole(run.path / TEACHERS_CLASSIFIERS, save(tensors))
    run.write(TEACHERS, {"teachers": rows})


def _read(run: RunFolder) -> dict[str, Tensor] | None:
    """Return the classifiers of an existing run; None for a new one. Raise ValueError for a damaged file."""
    if not run.holds(TEACHERS):
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(run.path / TEACHERS_CLASSIFIERS)
    except (SafetensorError, OSError) as error:
        path = str(run.path / TEACHERS_CLASSIFIERS)
        raise ValueError(f"the teachers' file {path!r} cannot be read ({error}); --overwrite starts over") from error
