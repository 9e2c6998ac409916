"""Metrics of a classifier from exact counts, independent of the number of processes and the batch size."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.training.distributed import World
from rexnet.training.progress import EpochProgress


class SizedBatches(Protocol):
    """Batches of an evaluation, such as `rexnet.data.loaders.EvalBatches`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class ClassCounts(NamedTuple):
    """Counts for one class: its images, the images predicted as it, and the images in both."""

    images: int
    called: int
    correct: int

    @property
    def recall(self) -> float | None:
        """Fraction of the class's images that are predicted correctly, 0 to 1; None without images."""
        return self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Fraction of the images predicted as this class that belong to it, 0 to 1; None without such images."""
        return self.correct / self.called if self.called else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 0 to 1; None without images."""
        return 2 * self.correct / (self.images + self.called) if self.images else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts over the labelled images of all processes; macro metrics are means over the classes that have images."""

    classes: tuple[str, ...]
    images: tuple[int, ...]
    """Images of each class."""
    correct: tuple[int, ...]
    """Correctly predicted images of each class."""
    called: tuple[int, ...]
    """Images predicted as each class, correctly or not."""
    correct_in_top5: int
    loss_sum: float
    """Sum of the cross-entropy without label smoothing."""

    @property
    def num_images(self) -> int:
        return sum(self.images)

    @property
    def top1(self) -> float:
        """Percent."""
        return 100.0 * sum(self.correct) / self.num_images

    @property
    def top5(self) -> float:
        """Percent of images whose class is among the five most probable."""
        return 100.0 * self.correct_in_top5 / self.num_images

    @property
    def macro_recall(self) -> float:
        """Percent."""
        return 100.0 * fmean(row.recall for row in self._counts() if row.recall is not None)

    @property
    def macro_f1(self) -> float:
        """Percent."""
        return 100.0 * fmean(row.f1 for row in self._counts() if row.f1 is not None)

    def _counts(self) -> Iterator[ClassCounts]:
        return map(ClassCounts, self.images, self.called, self.correct)

    def metrics(self) -> dict[str, float]:
        """Return a row of metrics: accuracies in percent, mean loss and number of images."""
        return {
            "top1": round(self.top1, 4),
            "top5": round(self.top5, 4),
            "macro_recall": round(self.macro_recall, 4),
            "macro_f1": round(self.macro_f1, 4),
            "loss": self.loss_sum / self.num_images,
            "images": self.num_images,
        }

    def by_class(self) -> dict[str, dict[str, Any]]:
        """Return by class name the counts, and precision, recall and F1 in percent, or None."""
        return {
            name: row._asdict() | {name: _percent(getattr(row, name)) for name in ("precision", "recall", "f1")}
            for name, row in zip(self.classes, self._counts(), strict=True)
        }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100.0 * fraction, 4)


class _Sums:
    """Sums over one process's images, on its device."""

    def __init__(self, num_classes: int, device: torch.device):
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)
        """Rows with, for each class, its images, its correctly predicted images, and the images predicted as it."""
        self.top5 = torch.zeros(1, dtype=torch.int64, device=device)
        # Apple's GPUs have no float64.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.loss = torch.zeros(1, dtype=exact, device=device)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        num_classes = self.counts.shape[1]
        best = logits.topk(min(5, num_classes), dim=1).indices
        hits = best == targets[:, None]
        self.counts[0] += torch.bincount(targets, minlength=num_classes)
        self.counts[1] += torch.bincount(targets[hits[:, 0]], minlength=num_classes)
        self.counts[2] += torch.bincount(best[:, 0], minlength=num_classes)
        self.top5 += hits.sum()
        self.loss += functional.cross_entropy(logits, targets, reduction="sum")


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: SizedBatches,
    *,
    classes: tuple[str, ...],
    world: World,
    autocast_dtype: torch.dtype | None = None,
) -> Evaluation:
    """Run `model` in eval mode over this process's part of the images, and sum the counts of all processes.

    A batch has `images` (B, 3, H, W) and `targets` (B,), indices into `classes`. Raise ValueError if there are no
    images or the network's output is not finite, and Stopped if any process has a request to stop.
    """
    model.eval()
    sums = _Sums(len(classes), world.device)
    with EpochProgress("validation", len(batches), visible=world.is_main) as progress:
        for batch in progress.watch(batches):
            images = batch.images.to(world.device, non_blocking=True)
            targets = batch.targets.to(world.device, non_blocking=True)
            with torch.autocast(world.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                logits = model(images).float()
            sums.add(logits, targets)
            progress.update(len(images), {})
            if world.stop.requested:
                break
    if any(world.any(world.stop.requested)):
        raise world.stop.stopped()
    counts, top5, loss_sum = map(world.sum, (sums.counts, sums.top5, sums.loss))
    if not counts[0].sum():
        raise ValueError("there are no images to evaluate on")
    if not loss_sum.isfinite():
        # argmax of nan is the first class, so without this error the accuracy would look valid.
        raise ValueError(
            "the network's outputs for the validation images are not finite (nan or inf), so nothing can be measured; "
            "try a lower --lr or --clip-grad 1 in training, or --amp off if fp16 overflows"
        )
    return Evaluation(
        classes=classes,
        images=tuple(counts[0].tolist()),
        correct=tuple(counts[1].tolist()),
        called=tuple(counts[2].tolist()),
        correct_in_top5=int(top5),
        loss_sum=float(loss_sum),
    )
