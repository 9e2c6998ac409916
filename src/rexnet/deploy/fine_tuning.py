"""Quantisation-aware fine-tuning: a network learns to give its own answers with weights and activations of eight bits.

Rounding is simulated in float, with the straight-through gradient of torch.fake_quantize (arXiv 1712.05877, section
3). What is learned is the float network's logits, so that no labels are needed.
"""

from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch
from rexnet.data.memory_batches import CropAndFlip, MemoryEvalBatches, MemoryTrainBatches, Pixels, decode
from rexnet.data.transforms import Preprocess
from rexnet.models.rexnet import RexNet
from rexnet.training.checkpoint import portable
from rexnet.training.config import OptimConfig, RunConfig, ScheduleConfig
from rexnet.training.distributed import joined
from rexnet.training.loop import Task, fit
from rexnet.training.run_folder import open_run

_EVALUATED = 256
"""Images on which each epoch tells how often both networks agree."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What the loop is told."""

    optim: OptimConfig
    schedule: ScheduleConfig
    run: RunConfig
    subject: tuple[str, str] = ("int8", "images")


def _settings(output: str, epochs: int) -> FineTuning:
    return FineTuning(
        optim=OptimConfig(optimizer="adamw", lr=1e-4, lr_batch=32, weight_decay=0.0, clip_grad=1.0),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=0.0),
        run=RunConfig(batch_size=32, device="cpu", workers=0, amp="off", output=output),
    )


class RoundedWeight(nn.Module):
    """Weights (C_out, ...) in 255 steps a channel, symmetric."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-8) / 127
        zero = torch.zeros(len(weight), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class RoundedInput:
    """Before a layer: its input in 256 steps over the range met so far, which always holds zero."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (x,) = inputs
        self.low, self.high = min(self.low, float(x.detach().min())), max(self.high, float(x.detach().max()))
        scale = max(self.high - self.low, 1e-8) / 255
        zero = round(-self.low / scale)
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255),)


def fine_tuned(model: RexNet, images: ImageSet, preprocess: Preprocess, *, epochs: int) -> RexNet:
    """A copy of a network without batch norms, with weights that lose less when they are rounded; `images` as they are
    in evaluation, `epochs` times. ValueError for fewer than two of them."""
    pixels = decode(images, preprocess, bad_image="skip")
    unchanged = CropAndFlip(padding_px=0, flip=0.0)
    student = deepcopy(model)
    layers = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(RoundedInput()) for layer in layers]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
    with TemporaryDirectory() as folder, joined("cpu") as world:
        config = _settings(folder, epochs)
        size, seed = config.run.batch_size, config.run.seed
        batches = MemoryTrainBatches(pixels, preprocess, unchanged, batch_size=size, seed=seed)
        few = Pixels(*(part[:_EVALUATED] for part in pixels))
        task = _task(model, images, MemoryEvalBatches(few, preprocess, batch_size=size))
        with closing(open_run(config, world)) as run:
            fit(student, batches, task, config=config, run=run, world=world)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return student.eval()


def _task(teacher: RexNet, images: ImageSet, evaluated: MemoryEvalBatches) -> Task:
    """To give the logits of `teacher`."""

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            right = teacher(batch.images).log_softmax(1)
        return functional.kl_div(student(batch.images).log_softmax(1), right, log_target=True, reduction="batchmean")

    @torch.inference_mode()
    def agreement(student: nn.Module) -> dict[str, float]:
        student.eval()
        same = [student(batch.images).argmax(1) == teacher(batch.images).argmax(1) for batch in evaluated]
        return {"agreement": 100.0 * torch.cat(same).float().mean().item()}

    def pack(student: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        return {"state_dict": portable(student.state_dict()), "metrics": metrics}

    return Task(loss=loss, evaluate=agreement, pack=pack, name_image=images.name, goal="agreement")
