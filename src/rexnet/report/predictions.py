"""A classifier's predictions on a set of images: mistakes, confusions and classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import EvalBatches
from rexnet.data.preprocess import Preprocess
from rexnet.training.evaluation import ClassCounts
from rexnet.training.progress import EpochProgress


class Confusion(NamedTuple):
    """Confusion of two classes: `count` images of `target` were predicted as `predicted`; both index the classes."""

    target: int
    predicted: int
    count: int


class ClassResult(NamedTuple):
    """Counts of one class, and its most frequent confusion."""

    name: str
    counts: ClassCounts
    top_confusion: Confusion | None


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for the images of a set, in its order, without unreadable ones."""

    classes: tuple[str, ...]
    indices: np.ndarray
    """Indices into the image set, int64 (N,)."""
    targets: np.ndarray
    """True classes, int64 (N,)."""
    predicted: np.ndarray
    """Most probable classes, int64 (N,)."""
    probabilities: np.ndarray
    """Probabilities of the most probable classes, float64 (N,), 0 to 1."""
    losses: np.ndarray
    """Cross-entropies, float64 (N,)."""
    correct_in_top5: int
    skipped: tuple[str, ...] = ()
    """Names of the images that could not be read."""

    @property
    def num_images(self) -> int:
        return len(self.indices)

    @property
    def top1(self) -> float:
        """Percent."""
        return 100.0 * float((self.targets == self.predicted).mean())

    @property
    def top5(self) -> float:
        """Percent."""
        return 100.0 * self.correct_in_top5 / self.num_images

    def mistakes(self) -> np.ndarray:
        """Return the positions of the wrong predictions, the most confident first: with a good network, wrongly
        labelled images come first. Ties are broken by the higher loss, then by the order of the set."""
        order = np.lexsort((self.indices, -self.losses, -self.probabilities))
        return order[self.targets[order] != self.predicted[order]]

    def successes(self, count: int) -> np.ndarray:
        """Return up to `count` positions of correct predictions, the most confident of each class first."""
        order = np.lexsort((self.indices, self.losses, -self.probabilities))
        right = order[self.targets[order] == self.predicted[order]]
        _, first = np.unique(self.targets[right], return_index=True)
        return right[np.sort(first)][:count]

    def confusions(self) -> list[Confusion]:
        """Return the pairs of classes among the mistakes, the most frequent first."""
        wrong = self.targets != self.predicted
        pairs = Counter(zip(self.targets[wrong].tolist(), self.predicted[wrong].tolist(), strict=True))
        return sorted((Confusion(*pair, count) for pair, count in pairs.items()), key=lambda row: (-row.count, row))

    def most_confused_classes(self, limit: int) -> list[int]:
        """Return all classes in ascending order, or only the `limit` classes most often involved in mistakes."""
        wrong = self.targets != self.predicted
        sides = np.concatenate([self.targets[wrong], self.predicted[wrong]])
        mistakes = np.bincount(sides, minlength=len(self.classes))
        return sorted(np.argsort(-mistakes, kind="stable")[:limit].tolist())

    def confusion_matrix(self, chosen: Sequence[int]) -> np.ndarray:
        """Return counts int64 (n, n) between the `chosen` classes: a row for each target, a column for each
        prediction."""
        place = np.full(len(self.classes), -1)
        place[list(chosen)] = np.arange(len(chosen))
        rows, columns = place[self.targets], place[self.predicted]
        inside = (rows >= 0) & (columns >= 0)
        flat = np.bincount(rows[inside] * len(chosen) + columns[inside], minlength=len(chosen) ** 2)
        return flat.reshape(len(chosen), len(chosen))

    def count(self, target: int) -> int:
        """Return the number of images of a class."""
        return int((self.targets == target).sum())

    def weakest_classes(self) -> list[ClassResult]:
        """Return every class, the one with the lowest recall first and those without images last."""
        return sorted(self.by_class(), key=lambda row: (row.counts.recall is None, row.counts.recall or 0.0, row.name))

    def by_class(self) -> list[ClassResult]:
        """Return every class, in order."""
        count = len(self.classes)
        images, predicted = (np.bincount(side, minlength=count) for side in (self.targets, self.predicted))
        correct = np.bincount(self.targets[self.targets == self.predicted], minlength=count)
        rows = images.tolist(), predicted.tolist(), correct.tolist()
        top_confusion: dict[int, Confusion] = {}
        for row in self.confusions():
            top_confusion.setdefault(row.target, row)
        return [
            ClassResult(name, ClassCounts(*counts), top_confusion.get(index))
            for index, (name, *counts) in enumerate(zip(self.classes, *rows, strict=True))
        ]


@torch.inference_mode()
def predict_set(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    device: torch.device,
    batch_size: int,
    workers: int = 0,
    label: str = "predictions",
) -> Predictions:
    """Move `model` to `device`, put it in eval mode and run it over `images`, whose classes must be those of its
    logits.

    Images that cannot be read are skipped and listed. Raise ValueError if none can be read.
    """
    model.eval().to(device)
    batches = EvalBatches(images, preprocess, batch_size=batch_size, workers=workers, bad_image="skip")
    columns: list[tuple[torch.Tensor, ...]] = []
    correct_in_top5 = 0
    with EpochProgress(label, len(batches)) as progress:
        for batch in progress.watch(batches):
            # Use double precision, or many confident predictions would all be exactly 1.
            logits = model(batch.images.to(device)).cpu().double()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            correct_in_top5 += int((best == batch.targets[:, None]).sum())
            probabilities = logits.softmax(dim=1).gather(1, best[:, :1])[:, 0]
            losses = functional.cross_entropy(logits, batch.targets, reduction="none")
            columns.append((batch.indices, batch.targets, best[:, 0], probabilities, losses))
            progress.update(len(batch.images), {})
    if not columns:
        raise ValueError(f"none of the {len(images):,} images can be read")
    indices, targets, predicted, probabilities, losses = (
        torch.cat(column).numpy() for column in zip(*columns, strict=True)
    )
    return Predictions(
        classes=images.classes,
        indices=indices,
        targets=targets,
        predicted=predicted,
        probabilities=probabilities,
        losses=losses,
        correct_in_top5=correct_in_top5,
        skipped=tuple(batches.skipped),
    )
