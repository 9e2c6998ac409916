"""Compare the outputs of a graph with the network's on images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.exported_file import ExportedFile
from rexnet.engines.config import Output

logger = logging.getLogger(__name__)

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Images in, all outputs of a graph."""
TOLERANCE = 1e-4
"""Allowed difference as a fraction of the largest number that the network puts out; rounding makes some 1e-6."""
BATCHES = (slice(0, 1), slice(1, 3), slice(0, 5))
"""Of one, two and five images."""


class OutputLayers(nn.Module):
    """A network from the images that a file takes to the tensors that it puts out, in evaluation."""

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, output: Output, pixels: Preprocess | None = None):
        super().__init__()
        self.model, self.output, self.pixels = model, output, pixels is not None
        for name, values in (("mean", pixels.mean), ("std", pixels.std)) if pixels else ():
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.pixels:
            images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        if self.output == "features":
            return tuple(self.model.feature_maps(images).values())
        features = self.model.forward_features(images)
        return (self.model.forward_head(features, pre_logits=self.output == "embedding"),)


@torch.inference_mode()
def largest_difference(
    runs: Mapping[str, Run],
    model: nn.Module,
    described: ExportedFile,
    pictures: Sequence[Image.Image],
    *,
    sizes_px: Sequence[int],
) -> float:
    """Return the largest difference of `runs`, by engine, from `model`, which is in evaluation, as a fraction of
    the largest number of a tensor.

    Images are prepared at each of `sizes_px` and run in BATCHES. ValueError, one sentence, where it exceeds TOLERANCE.
    """
    eager = OutputLayers(model, described.output)
    worst = 0.0
    for size_px in sizes_px:
        preprocess = replace(described.preprocess, image_size_px=size_px)
        images = torch.stack([preprocess(picture) for picture in pictures])
        images = images[:, [channel % 3 for channel in range(described.in_channels)]]
        expected = [found.numpy() for found in eager(images.clone())]
        _judge_expected(expected, described.name)
        pixels = np.stack([preprocess.pixels(picture) for picture in pictures])
        inputs = pixels if described.pixels else images.contiguous().numpy()
        for batch in BATCHES:
            right = [part[batch] for part in expected]
            for engine, run in runs.items():
                where = f"a batch of {len(inputs[batch])} at {size_px} px in {engine}"
                worst = max(worst, _difference(right, run(inputs[batch]), whole=expected, where=where))
    return worst


def _judge_expected(expected: Sequence[np.ndarray], name: str) -> None:
    if not all(np.isfinite(part).all() for part in expected):
        raise ValueError(f"what {name} puts out is not finite (nan or inf): its training has failed")
    last = expected[-1]
    if np.abs(last - last.mean(axis=0)).max() <= 10 * TOLERANCE * np.abs(last).max():
        logger.warning("%s puts out nearly the same for any picture, so that equal outputs say little", name)


def _difference(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], *, whole: Sequence[np.ndarray], where: str
) -> float:
    shapes = [part.shape for part in expected], [part.shape for part in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the graph puts out {shapes[1]} for {where}, and PyTorch {shapes[0]}; nothing was written")
    worst = 0.0
    for ours, theirs, scale in zip(expected, found, whole, strict=True):
        largest = max(float(np.abs(scale).max()), float(np.finfo(np.float32).tiny))
        difference = float(np.abs(ours - theirs).max()) / largest
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the graph and PyTorch differ by {difference:.2g} of the largest output for {where}; allowed: "
                f"{TOLERANCE:g}; nothing was written"
            )
        worst = max(worst, difference)
    return worst
