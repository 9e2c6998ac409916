"""Cross-entropy of a classifier, with weights that balance the classes."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.data.datasets import ImageSets
from rexnet.data.loaders import Batch
from rexnet.data.splits import class_weights
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World

logger = logging.getLogger(__name__)


def classification_loss(
    model: nn.Module, batch: Batch, *, device: torch.device, label_smoothing: float, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the `label_loss` of a batch with class indices (B,), or with smoothed soft targets (B, K)."""
    images = batch.images.to(device, non_blocking=True)
    targets = batch.targets.to(device, non_blocking=True)
    logits = model(images)
    loss = label_loss(logits, targets, label_smoothing=label_smoothing, weights=weights)
    right = logits.argmax(dim=1) == (targets.argmax(dim=1) if targets.ndim == 2 else targets)
    return {"loss": loss, "top1": 100.0 * right.float().mean()}


def label_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of logits (B, K) with class indices (B,), or with smoothed soft targets (B, K).

    `weights` (K,) weight the images of each class, see `image_weights`; the sum is divided by the number of images, not
    by the sum of their weights, so that several processes compute the same gradient as one.
    """
    smoothing = 0.0 if targets.ndim == 2 else label_smoothing
    if weights is None:
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    losses = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
    return (image_weights(targets, weights, label_smoothing) * losses).mean()


def image_weights(targets: Tensor, weights: Tensor, label_smoothing: float) -> Tensor:
    """Return the weight (B,) of each image: its class's weight or, for a mixed image, the average of both classes'
    weights by their fractions.

    Weights apply to images, not to targets: weighting each term of a smoothed target instead, as
    `cross_entropy(weight=...)` does, would make a rare class probable for every image. `label_smoothing` is the
    smoothing in soft targets.
    """
    if targets.ndim == 1:
        return weights[targets]
    # Avoid a matrix product, which autocast would round.
    return ((targets * weights).sum(dim=1) - label_smoothing * weights.mean()) / (1.0 - label_smoothing)


def loss_weights(sets: ImageSets, config: TrainConfig, world: World) -> Tensor | None:
    """Return the class weights, float32 (K,), on the process's device; None if the loss does not balance the
    classes."""
    if config.input.balance != "loss":
        return None
    weights = class_weights(sets.train.targets, len(sets.classes))
    if world.is_main:
        logger.info("images have weights from %.3g to %.3g in the loss, by class", weights.min(), weights.max())
    return torch.tensor(weights, dtype=torch.float32, device=world.device)
