"""Batch-norm statistics of the weights that are evaluated."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from rexnet.training.steps import Batches


class LastBatches:
    """The last batches of an epoch, with at least `images` images in total; read again if a resumed epoch was too
    short."""

    def __init__(self, batches: Batches, images: int):
        self._batches = batches
        self._count = min(-(-images // batches.images_per_batch), len(batches))
        self._kept: deque[Any] = deque(maxlen=self._count)

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of an epoch, or of the rest of one, and keep the last ones."""
        self._kept.clear()
        for batch in batches:
            self._kept.append(batch)
            yield batch

    def of(self, epoch: int) -> list[Any]:
        """Return the last batches of `epoch`, which has been watched."""
        if len(self._kept) < self._count:
            self._kept.extend(self._batches.epoch(epoch, len(self._batches) - self._count))
        return list(self._kept)


@torch.no_grad()
def measure_norms(model: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    """Replace the statistics of `model`'s batch norms with their means over `batches`, except for norms in eval mode
    and batches whose statistics are not finite. `forward(batch)` runs the model.

    A running average still reflects the weights of many steps ago. If each step changes the weights much, a network
    that classifies its training batches may then predict one class for every validation image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.training and norm.track_running_stats]
    if not norms:
        return
    values = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    momenta, counts = [norm.momentum for norm in norms], [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 1.0
    means, count = [value.clone() for value in values], 0
    for batch in batches:
        forward(batch)
        finite = all(bool(value.isfinite().all()) for value in values)
        count += finite
        for mean, value in zip(means, values, strict=True):
            if finite:
                mean.lerp_(value, 1 / count)
            else:
                value.copy_(mean)  # nan would stay in the next batch's statistics
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for changed, right in zip([*values, *counters], [*means, *counts], strict=True):
        changed.copy_(right)
