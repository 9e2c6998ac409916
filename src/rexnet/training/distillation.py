"""Distillation: a network learns the predictions of trained networks, its teachers, for the same view of an image. A
view is sampled once, at the largest of all their sizes, and resized for each network (arXiv 2106.05237).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_images
from rexnet.data.loaders import Batch
from rexnet.data.preprocess import Preprocess
from rexnet.data.splits import fingerprint
from rexnet.errors import OptionError
from rexnet.training.config import TrainConfig
from rexnet.training.teachers import Guide, Teacher


class Guidance:
    """Predictions of `guides`, softened by `temperature`, for views normalised like the student's images. With `keep`,
    for fixed views, each view is predicted once, in a batch of its own, so that a resumed run gets the same result from
    different batches.
    """

    def __init__(self, guides: Sequence[Guide], student: Preprocess, *, temperature: float, keep: bool = False):
        self._guides, self._student = guides, student
        self.temperature = temperature
        self._kept: dict[tuple[int, int], Tensor] | None = {} if keep else None

    @classmethod
    def of(cls, guides: Sequence[Guide], config: TrainConfig) -> Self:
        """Return the guidance that matches the settings of a run."""
        keep = has_fixed_views(config.augment)
        return cls(guides, config.input.preprocess(), temperature=config.teacher.temperature, keep=keep)

    def student_images(self, views: Tensor) -> Tensor:
        return _resize(views, self._student.image_size_px)

    @torch.no_grad()
    def predict(self, views: Tensor, indices: Tensor) -> Tensor:
        """Return the logarithm of the guides' mean probabilities (B, K) for views (B, 3, V, V) of these images."""
        if self._kept is None:
            return self._predict(views)
        pixels = views.cpu().numpy()
        keys = [(index, hash(view.tobytes())) for index, view in zip(indices.tolist(), pixels, strict=True)]
        for position, key in enumerate(keys):
            if key not in self._kept:
                self._kept[key] = self._predict(views[position : position + 1])[0].cpu()
        return torch.stack([self._kept[key] for key in keys]).to(views.device)

    def _predict(self, views: Tensor) -> Tensor:
        logits = (guide.classify(guide.embed(self._images(guide.teacher.preprocess, views))) for guide in self._guides)
        softened = [(each.float() / self.temperature).log_softmax(1) for each in logits]
        return torch.stack(softened).logsumexp(0) - math.log(len(softened))

    def _images(self, teacher: Preprocess, views: Tensor) -> Tensor:
        """Return the images at a teacher's size and with its normalisation."""
        images = _resize(views, teacher.image_size_px)
        if (teacher.mean, teacher.std) == (self._student.mean, self._student.std):
            return images
        mean, std, own_mean, own_std = (
            images.new_tensor(values).view(3, 1, 1)
            for values in (teacher.mean, teacher.std, self._student.mean, self._student.std)
        )
        return images * (own_std / std) + (own_mean - mean) / std


def _resize(images: Tensor, size_px: int) -> Tensor:
    if images.shape[-1] == size_px:
        return images
    return functional.interpolate(images, (size_px, size_px), mode="bicubic", antialias=True)


def distillation_loss(
    model: nn.Module,
    batch: Batch,
    *,
    guidance: Guidance,
    weight: float,
    label_loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return `weight` times the Kullback-Leibler divergence from the guides' softened predictions, times the squared
    temperature (arXiv 1503.02531), plus 1 - `weight` times `label_loss(logits, targets)`.

    A target beyond the last class marks an image without a label; "top1" then compares with the guides' prediction.
    """
    views, targets = (part.to(device, non_blocking=True) for part in (batch.images, batch.targets))
    expected = guidance.predict(views, batch.indices)
    logits = model(guidance.student_images(views))
    softened = (logits.float() / guidance.temperature).log_softmax(1)
    divergence = functional.kl_div(softened, expected, reduction="batchmean", log_target=True)
    loss = weight * guidance.temperature**2 * divergence
    classes = targets.argmax(1) if targets.ndim == 2 else targets
    labelled = classes < logits.shape[1]
    if weight < 1 and labelled.any():
        # Divide by the number of all images, so that several processes compute the same gradient as one.
        fraction = labelled.float().mean()
        loss = loss + (1 - weight) * fraction * label_loss(logits[labelled], targets[labelled])
    classes = torch.where(labelled, classes, expected.argmax(1))
    return {"loss": loss, "top1": 100.0 * (logits.argmax(1) == classes).float().mean()}


def note_teachers(config: TrainConfig, teachers: Sequence[Teacher]) -> TrainConfig:
    """Return `config` with the hashes of its teachers and unlabelled images. Raise OptionError if `teachers` differ
    from those it names."""
    given, names = config.teacher, tuple(teacher.name for teacher in teachers)
    if given.teacher != names:
        raise OptionError(f"--teacher is {given.teacher}; allowed: the opened teachers, {names}")
    unlabelled = None if given.unlabelled is None else fingerprint(open_images(given.unlabelled))
    hashes = tuple(teacher.sha256 for teacher in teachers)
    return replace(config, teacher=replace(given, teacher_sha256=hashes, unlabelled_sha256=unlabelled))


def view_preprocess(config: TrainConfig, teachers: Sequence[Teacher]) -> Preprocess:
    """Return the transform of views: the student's, at the largest of all image sizes or, with padded crops, at its
    own."""
    student = config.input.preprocess()
    sizes = [] if config.augment.crop_padding_px else [teacher.preprocess.image_size_px for teacher in teachers]
    return replace(student, image_size_px=max([student.image_size_px, *sizes]))


def has_fixed_views(augment: AugmentConfig) -> bool:
    """Return whether an image has the same views in all epochs: the whole image, and possibly its mirror image."""
    whole = AugmentConfig(
        crop_scale=(1.0, 1.0),
        crop_aspect=(1.0, 1.0),
        crop_interpolation=augment.crop_interpolation,
        horizontal_flip=augment.horizontal_flip,
        label_smoothing=augment.label_smoothing,
    )
    return augment == whole
