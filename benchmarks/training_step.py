"""Training images per second and peak memory on a CPU: a step of `rexnet train`, with its memory order, kept memory,
checks of loss and gradient and copies of statistics, beside timm's network in a plain step with the defaults of timm's
training script (float32, batch axis first).

Every measurement is a process of its own, because peak memory and the way the C library keeps memory belong to one; the
contenders take turns, so that a drift of the machine hits all.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor, nn

import records

Contender = Literal["timm", "ours", "ours, bf16"]
CONTENDERS: tuple[Contender, ...] = ("timm", "ours", "ours, bf16")
NAME = "training_step_cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/training_step.py`"""

    model: str = "rexnet_100"
    """A name that this package and timm share."""
    settings: tuple[tuple[int, int], ...] = ((224, 16), (64, 64))
    """Image size in pixels and batch of each measured setting."""
    rounds: int = 5
    steps: int = 5
    """Measured steps of a process, after two that are not."""
    threads: int = 2
    bf16: bool = True
    """Measure mixed precision too; processors that only imitate it need minutes for a step."""
    only: Contender | None = None
    """Measure this one here and print it; what the script starts itself with."""


def measure(contender: Contender, options: Options) -> dict[str, float]:
    """Return images/s (median step) and the process's peak memory in MiB."""
    import timm

    import rexnet
    from rexnet.training.session import keep_freed_memory

    torch.set_num_threads(options.threads)
    ((size_px, batch),) = options.settings
    images, labels = torch.randn(batch, 3, size_px, size_px), torch.randint(1000, (batch,))
    if contender == "timm":
        step = timms_step(timm.create_model(options.model).train())
    else:
        keep_freed_memory()
        step = our_step(rexnet.create_model(options.model).to(memory_format=torch.channels_last))
        images = images.contiguous(memory_format=torch.channels_last)

    def loss_of(model: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=contender.endswith("bf16")):
            return nn.functional.cross_entropy(model(images).float(), labels, label_smoothing=0.1)

    seconds = []
    for _ in range(2 + options.steps):
        start = time.perf_counter()
        step(loss_of)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_s": batch / statistics.median(seconds[2:]), "peak_mib": peak}


Step = Callable[[Callable[[nn.Module], Tensor]], None]
"""Takes the loss of a network and changes the network's weights."""


def timms_step(model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-5)

    def step(loss_of: Callable[[nn.Module], Tensor]) -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return step


def our_step(model: nn.Module) -> Step:
    from rexnet.training.config import OptimConfig, ScheduleConfig
    from rexnet.training.optimization import LearningRate, Updater

    rate = LearningRate(peak_lr=1e-3, schedule=ScheduleConfig(epochs=1, warmup_epochs=0.0), steps_per_epoch=1000)
    updater = Updater(model, OptimConfig(weight_decay=1e-5), rate, scale_gradients=False)

    def step(loss_of: Callable[[nn.Module], Tensor]) -> None:
        updater.begin()
        updater.backward(loss_of(model))
        if updater.finish(step=0):
            updater.apply(step=0)
        else:
            updater.discard()

    return step


def in_a_process(contender: Contender, options: Options, setting: tuple[int, int]) -> dict[str, float]:
    words = ["--only", contender, "--settings", *map(str, setting), "--model", options.model]
    words += ["--steps", str(options.steps), "--threads", str(options.threads)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(setting: tuple[int, int], options: Options) -> None:
    contenders = CONTENDERS if options.bf16 else CONTENDERS[:2]
    rounds = [{name: in_a_process(name, options, setting) for name in contenders} for _ in range(options.rounds)]
    row = {"model": options.model, "image_size_px": setting[0], "batch": setting[1], "rounds": options.rounds}
    for what in ("images_per_s", "peak_mib"):
        row[what] = {name: records.quartiles([figures[name][what] for figures in rounds]) for name in contenders}
        row[f"{what}_ratio"] = {
            name: records.quartiles([figures[name][what] / figures["timm"][what] for figures in rounds])
            for name in contenders[1:]
        }
    torch.set_num_threads(options.threads)
    records.append(NAME, {"what": "training step", **row, **records.provenance("cpu")})
    print(json.dumps(row), flush=True)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    for setting in options.settings:
        compare(setting, options)


if __name__ == "__main__":
    main()
