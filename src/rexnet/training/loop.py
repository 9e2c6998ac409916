"""The training loop, the only one: classification, detection and search pass it different functions."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.data.decode import printable
from rexnet.training import checkpoint
from rexnet.training.config import Amp, TrainConfig
from rexnet.training.distributed import World
from rexnet.training.optimization import LearningRate, Updater
from rexnet.training.progress import EpochProgress
from rexnet.training.run_folder import RunFolder
from rexnet.training.tensorboard_events import EventLog

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """What the loop asks of training data; `rexnet.data.loaders.TrainBatches` is one."""

    def __len__(self) -> int:
        """Steps an epoch, the same on every process."""
        ...

    def epoch(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, the same ones each time it is asked for. A batch has `indices`, one an image."""
        ...


Loss = Callable[[nn.Module, Any], Tensor | dict[str, Tensor]]
"""loss(model, batch): a scalar, or scalars of which "loss" is minimised and the others are only reported."""
Evaluate = Callable[[nn.Module], dict[str, float]]
Pack = Callable[[Any, dict[str, Any]], dict[str, Any]]
"""pack(model, metrics): the content of a checkpoint, see `checkpoint.pack`."""


class NonFiniteError(ValueError):
    """A loss or gradient that is infinite or not a number. Weights, average and files are as they were before it."""


def fit(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss,
    evaluate: Evaluate,
    pack: Pack,
    name_image: Callable[[int], str],
    config: TrainConfig,
    run: RunFolder,
    world: World,
    goal: str = "top1",
) -> dict[str, Any]:
    """Trains `model` for all epochs, or for the rest of them if `run` has a last checkpoint.

    After each epoch `run` gets a row of metrics, last.pt, and best.pt if evaluate's `goal` is higher than ever. Returns
    the best epoch's row. All randomness comes from (seed, step, rank) and from `batches`, so a run that was killed
    anywhere and resumed ends with the very weights of one that was not. Raises NonFiniteError, naming the images.
    """
    epochs, steps = config.schedule.epochs, len(batches)
    model.to(world.device).to(memory_format=torch.channels_last if config.run.channels_last else torch.preserve_format)
    autocast_dtype = choose_autocast(config.run.amp, world.device)
    rate = _learning_rate(config, total_batch=config.run.batch_size * world.size, steps_per_epoch=steps)
    updater = Updater(model, config.optim, rate, scale_gradients=autocast_dtype == torch.float16)
    done_epochs, best = _resume(updater, run, world) if run.last.exists() else (0, {})
    events = EventLog(run.path, done_epochs=done_epochs) if config.run.tensorboard and world.is_main else None
    if config.run.compile:
        model.compile()
    network = world.wrap(model)
    autocast = torch.autocast(world.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)

    for epoch in range(done_epochs, epochs):
        network.train()
        with EpochProgress(f"epoch {epoch + 1}/{epochs}", steps, visible=world.is_main) as progress:
            for step, batch in enumerate(progress.watch(batches.epoch(epoch)), start=epoch * steps):
                torch.manual_seed(step_seed(config.run.seed, step, world.rank))
                with autocast:
                    losses = loss(network, batch)
                losses = losses if isinstance(losses, dict) else {"loss": losses}
                if not updater.update(losses["loss"], step):
                    raise _non_finite(losses["loss"], batch, name_image, epoch, step, run, world)
                progress.update(len(batch.indices), {name: float(value.detach()) for name, value in losses.items()})

        for module in dict.fromkeys((model, updater.evaluated)):
            world.average_buffers(module)
        row = {"epoch": epoch + 1, "lr": rate((epoch + 1) * steps - 1), **_train_figures(progress, world)}
        row |= {f"val_{name}": value for name, value in evaluate(updater.evaluated).items()}
        row["seconds"] = round(progress.seconds, 2)
        if not best or row[f"val_{goal}"] > best[f"val_{goal}"]:
            best = row
        if world.is_main:
            _log(row, best, epochs, goal)
            _write(row, best, pack(updater.evaluated, row), updater, run, epochs)
        if events:
            events.add(row)
    if events:
        events.close()
    return best


def _learning_rate(config: TrainConfig, *, total_batch: int, steps_per_epoch: int) -> LearningRate:
    schedule, peak_lr = config.schedule, config.optim.peak_lr(total_batch)
    logger.info("learning rate up to %.4g, for a batch of %d in all", peak_lr, total_batch)
    if schedule.warmup_epochs >= schedule.epochs:
        text = "--warmup-epochs %g is not below --epochs %d: the learning rate only rises"
        logger.warning(text, schedule.warmup_epochs, schedule.epochs)
    return LearningRate(peak_lr=peak_lr, schedule=schedule, steps_per_epoch=steps_per_epoch)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one step's drop-out and drop path, apart for every step and process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def choose_autocast(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, None for full. "auto" is off where half precision is not faster by hardware."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _resume(updater: Updater, run: RunFolder, world: World) -> tuple[int, dict[str, Any]]:
    content = checkpoint.read(run.last)
    training = content["training"]
    updater.restore(content["state_dict"], training["updater"])
    if world.is_main:
        run.keep_rows(training["epochs"])
        logger.info("continuing %s after epoch %d", run.path, training["epochs"])
    return training["epochs"], training["best"]


def _train_figures(progress: EpochProgress, world: World) -> dict[str, float]:
    """Means over all processes' images, images/s of all processes, and this process's share of time spent waiting."""
    names = list(progress.sums)
    totals = world.sum(torch.tensor([*progress.sums.values(), progress.images], dtype=torch.float64)).tolist()
    means = {f"train_{name}": total / totals[-1] for name, total in zip(names, totals[:-1], strict=True)}
    speed = {"images_per_second": round(totals[-1] / progress.seconds, 1), "wait_share": round(progress.wait_share, 4)}
    return means | speed


def _write(
    row: dict[str, Any], best: dict[str, Any], content: dict[str, Any], updater: Updater, run: RunFolder, epochs: int
) -> None:
    """The row, then best.pt, then last.pt: a kill between them makes the resumed run write the same again."""
    run.append(row)
    if row is best:
        checkpoint.save(run.best, content)
    training = {"epochs": row["epoch"], "best": best, "updater": updater.state()}
    checkpoint.save(run.last, {**content, "training": training})
    # Drawing takes about a second, too much beside epochs of a few.
    if row["seconds"] > 20 or row["epoch"] == epochs:
        run.draw_curves()


def _log(row: dict[str, Any], best: dict[str, Any], epochs: int, goal: str) -> None:
    key = f"val_{goal}"
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in row if name.startswith(("train_", "val_")))
    speed = f"{row['images_per_second']:.0f} images/s, {row['wait_share']:.0%} waiting for data"
    logger.info("epoch %d/%d  %s  best %s %.4g  (%s)", row["epoch"], epochs, figures, key, best[key], speed)


def _non_finite(
    loss: Tensor, batch: Any, name_image: Callable[[int], str], epoch: int, step: int, run: RunFolder, world: World
) -> NonFiniteError:
    names = [printable(name_image(int(index))) for index in batch.indices]
    what = "gradient is not finite" if loss.isfinite() else f"loss is {float(loss.detach())}"
    file = f"non_finite.{world.rank}.json"
    run.write(file, {"epoch": epoch + 1, "step": step, "what": what, "images": names})
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    kept = f"the checkpoints of epoch {epoch}" if epoch else "no checkpoint yet"
    return NonFiniteError(
        f"the {what} at step {step} (epoch {epoch + 1}), before which {run.path} has {kept}; the batch is {some}, in "
        f"full in {run.path / file}; a lower --lr or --clip-grad 1 often helps"
    )
