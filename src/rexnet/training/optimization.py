"""From a loss to new weights: parameter groups, optimizer, learning rate per step, moving average."""

import json
import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from rexnet.errors import NonFiniteError, OptionError
from rexnet.models.rexnet import RexNet
from rexnet.text import plural
from rexnet.training.checkpoint import portable
from rexnet.training.config import LoopConfig, OptimConfig, ScheduleConfig
from rexnet.training.distributed import World
from rexnet.training.freezing import layer_number
from rexnet.training.run_folder import DISCARDED, RunFolder

logger = logging.getLogger(__name__)

MAX_DISCARDED_STEPS = 10
"""Maximum number of skipped steps in an epoch; one more ends the run, as does an epoch in which all are skipped."""


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Learning rate by step, counted from 0: `rate(step)`.

    Linear from warmup_lr to the peak, then a cosine to min_lr (or linear to it, steps by a factor of ten, or constant).
    The cosine spans all steps, and the warm-up replaces its beginning: timm's default, used to train the paper's
    models. Unlike timm's, the warm-up takes at most half of a short run. At each of restart_epochs the whole schedule
    restarts and spans the epochs until the next restart.
    """

    peak_lr: float
    schedule: ScheduleConfig
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        schedule, epoch = self.schedule, step // self.steps_per_epoch
        start = max((0, *(restart for restart in schedule.restart_epochs if restart <= epoch)))
        end = min((schedule.epochs, *(restart for restart in schedule.restart_epochs if restart > epoch)))
        step -= start * self.steps_per_epoch
        warmup_steps = round(min(schedule.warmup_epochs, (end - start) / 2) * self.steps_per_epoch)
        if step < warmup_steps:
            return schedule.warmup_lr + (self.peak_lr - schedule.warmup_lr) * step / warmup_steps
        fraction_done = step / ((end - start) * self.steps_per_epoch)
        falls = sum(start < milestone <= epoch for milestone in schedule.decay_milestones or ())
        height = {
            "cosine": 0.5 * (1 + math.cos(math.pi * fraction_done)),
            "linear": 1 - fraction_done,
            "constant": 1.0,
            "multistep": 0.1**falls,
        }
        return schedule.min_lr + (self.peak_lr - schedule.min_lr) * height[schedule.schedule]


def make_rate(config: LoopConfig, *, total_batch: int, steps_per_epoch: int) -> LearningRate:
    """Return the learning-rate schedule of a run, and log its peak."""
    schedule, peak_lr = config.schedule, config.optim.peak_lr(total_batch)
    scaled = f" ({config.optim.lr:g} for {config.optim.lr_batch} images, scaled)" if config.optim.lr_batch else ""
    logger.info("peak learning rate %.4g for a total batch of %d%s", peak_lr, total_batch, scaled)
    if schedule.warmup_epochs > schedule.epochs / 2:
        half = schedule.epochs / 2
        logger.info("the warm-up takes half of the run, %g %s", half, plural(half, "epoch"))
    return LearningRate(peak_lr=peak_lr, schedule=schedule, steps_per_epoch=steps_per_epoch)


def make_optimizer(model: nn.Module, config: OptimConfig, *, lr: float) -> Optimizer:
    """Return the timm optimizer that `config` names, over the groups of `parameter_groups`. Raise OptionError for a
    name that timm does not have.
    """
    from timm.optim import create_optimizer_v2, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    if config.optimizer not in (names := [str(name) for name in list_optimizers()]):
        close = ", ".join(get_close_matches(config.optimizer, names, n=4)) or "sgd, momentum, adamw, lamb, lion"
        raise OptionError(
            f"--optimizer is {config.optimizer!r}; allowed: timm's {len(names)} optimizers, such as {close}"
        )
    return create_optimizer_v2(
        model,
        opt=config.optimizer,
        lr=lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        param_group_fn=partial(parameter_groups, config=config),
    )


def parameter_groups(model: nn.Module, *, config: OptimConfig) -> list[dict[str, Any]]:
    """Group the trained parameters, with weight decay on matrices and kernels only: two groups, or two per layer.

    A group's `lr_scale` is layer_decay to the power of the layer's distance from the head (discriminative fine-tuning,
    arXiv 1801.06146). Raise OptionError for a layer_decay below 1 if the model is not a ReXNet.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    layered = config.layer_decay < 1
    if layered and not isinstance(model, RexNet):
        raise OptionError(f"--layer-decay is {config.layer_decay}, but layer decay needs a ReXNet; allowed: 1")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = len(model.config.blocks) + 2 - layer_number(model, name) if isinstance(model, RexNet) else 0
            groups[config.layer_decay**depth, parameter.ndim > 1].append(parameter)
    return [
        {"params": groups[scale, decays], "weight_decay": config.weight_decay * decays, "lr_scale": scale}
        for scale, decays in sorted(groups)
    ]


def check_optimizer(model: nn.Module, optim: OptimConfig, schedule: ScheduleConfig, *, total_batch: int) -> None:
    """Raise OptionError for an optimizer or learning rates that `Updater` cannot use, and warn about options without
    effect."""
    peak_lr = optim.peak_lr(total_batch)
    if schedule.min_lr > peak_lr:
        raise OptionError(f"--min-lr is {schedule.min_lr:g}; allowed: at most the learning rate, here {peak_lr:g}")
    if schedule.schedule == "multistep" and not schedule.decay_milestones:
        raise OptionError("--schedule multistep needs --decay-milestones; give the epochs, such as 8 11")
    if late := [epoch for epoch in schedule.restart_epochs if epoch >= schedule.epochs]:
        raise OptionError(f"--restart-epochs has {late[0]}; allowed: below --epochs, here {schedule.epochs}")
    late = " ".join(str(epoch) for epoch in schedule.decay_milestones or () if epoch >= schedule.epochs)
    optimizer = make_optimizer(model, optim, lr=peak_lr)
    kind, has_momentum = schedule.schedule, any("momentum" in group for group in optimizer.param_groups)
    for option, idle, beside in (
        ("decay_milestones", schedule.decay_milestones and kind != "multistep", f"--schedule {kind}"),
        (f"decay_milestones {late}", late and kind == "multistep", f"--epochs {schedule.epochs}"),
        ("min_lr", schedule.min_lr and kind == "constant", f"--schedule {kind}"),
        ("warmup_lr", schedule.warmup_lr != ScheduleConfig.warmup_lr and not schedule.warmup_epochs, "no warm-up"),
        ("momentum", optim.momentum != OptimConfig.momentum and not has_momentum, f"--optimizer {optim.optimizer}"),
    ):
        if idle:
            logger.warning("--%s has no effect with %s", option.replace("_", "-"), beside)


class Updater:
    """Weight updates of `model` from losses, with the state that persists between updates."""

    def __init__(self, model: nn.Module, config: OptimConfig, rate: LearningRate, *, scale_gradients: bool):
        self.model = model
        self.rate = rate
        self.clip_grad = config.clip_grad
        self.optimizer = make_optimizer(model, config, lr=rate.peak_lr)
        # Always created, but disabled without fp16, so that every update runs the same code.
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=scale_gradients)
        self._buffers = list(model.buffers())
        self._kept_buffers = [buffer.clone() for buffer in self._buffers]
        self._losses: list[Tensor] = []
        self.ema = None
        if config.ema_decay is not None:
            from timm.utils.model_ema import ModelEmaV3

            # Without the warm-up of the decay, a short run's average would still contain the random initial weights.
            self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True)

    @property
    def evaluated(self) -> nn.Module:
        """Network to evaluate and save: the moving average if there is one."""
        return self.ema.module if self.ema else self.model

    def begin(self) -> None:
        """Free the last step's gradients and back up the batch-norm statistics, which the forward pass changes before
        the loss is known."""
        self.optimizer.zero_grad()
        self._losses = []
        _copy(self._buffers, self._kept_buffers)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the scalar loss of one batch of the step."""
        self.scaler.scale(loss).backward()
        self._losses.append(loss.detach())

    def finish(self, step: int) -> bool:
        """Prepare the step's gradients for `apply` or `discard`. Return False if a loss or a gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group["lr_scale"]
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.clip_grad is not None:
            clip_grads_with_norm_(parameters, self.clip_grad, norm)
        # Overflows of fp16 gradients are common: the scaler skips the step and halves its scale. At a scale of 1, the
        # gradients themselves are not finite.
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        loss = torch.stack(self._losses).sum()
        return bool(loss.isfinite() if overflows else loss.isfinite() & norm.isfinite())

    def apply(self, step: int) -> None:
        """Update the weights and the moving average from the gradients of `backward`."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model, step + 1)

    def discard(self) -> None:
        """Restore the state at `begin`, so that the step leaves no trace in weights, statistics or moving average."""
        _copy(self._kept_buffers, self._buffers)
        if self.scaler.is_enabled():
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs for an exact resume, besides the evaluated network's weights."""
        weights = {"model": portable(self.model.state_dict())} if self.ema else {}
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), **weights}

    def restore(self, evaluated: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore a result of `state`; `evaluated` are the evaluated network's weights."""
        self.evaluated.load_state_dict(evaluated)
        if self.ema:
            self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def note_discarded(
    mine: list[str], *, count: int, of: int, epoch: int, step: int, run: RunFolder, world: World
) -> None:
    """Log and record the `count`th skipped step among the `of` steps of an epoch. Raise NonFiniteError if there are too
    many. `mine`: what is not finite on this process, followed by the names of the images; empty if all is finite. Every
    process must call this function.
    """
    parts = [part for text in world.gather([json.dumps(mine)]) if (part := json.loads(text))]
    what, names = parts[0][0], [name for part in parts for name in part[1:]]
    if world.is_main:
        run.append({"epoch": epoch, "step": step, "what": what, "images": names}, name=DISCARDED)
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    if count > MAX_DISCARDED_STEPS or count == of:
        raise NonFiniteError(
            f"{count} of {of} steps of epoch {epoch} were skipped, the last one because the {what}; its images are "
            f"{some}, and {run.path / DISCARDED} lists all; a lower --lr or --clip-grad 1 often helps"
        )
    if world.is_main:
        logger.warning("step %d was skipped because the %s; its images: %s", step, what, some)


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    # Copy a few hundred small tensors in one call; a head trained alone has no buffers.
    if source:
        torch._foreach_copy_(target, source)  # pyright: ignore[reportPrivateImportUsage]
