"""`rexnet train` with and without a teacher, beside the frozen teacher with a fitted classifier.

The student is of width 0.5 at 64 px (CIFAR-10 at 32, stem stride 1) and starts from random weights, the teacher is an
EfficientNet-Lite0 of ImageNet at 224 px. Contenders: none (labels alone), teacher (labelled images alone), unlabelled
(also the training images whose labels were taken away). Judged by the weights after the last epoch. One row a run, with
the latency of one image on one thread; runs already in the results are skipped, so a second call continues, and the
hours of the missing ones are printed first.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import tyro

import runs
from imagenet_network import MODEL, write_weights
from recipe_sets import Task
from rexnet.data.datasets import open_dataset
from rexnet.deploy.teachers import open_teachers
from rexnet.engines.backends import Network, open_network
from rexnet.engines.config import Engine
from rexnet.engines.measuring import interleaved_ms
from rexnet.models.factory import create_model
from rexnet.training.teacher_config import TeacherConfig
from rivals import Loop

NAME = "distillation_cpu"
ROUNDS = 20
SetName = Literal["flowers17-5", "flowers17-20", "flowers17", "cifar10-2000"]


TASKS: dict[str, Task] = {
    "flowers17-5": Task("flowers17", shots=5),
    "flowers17-20": Task("flowers17", shots=20),
    "flowers17": Task("flowers17"),
    "cifar10-2000": Task("cifar10-10000", image_px=32, shots=200),
}


@dataclass(frozen=True, kw_only=True)
class Options(runs.Options):
    """`python benchmarks/distillation.py FOLDER` with that of flowers17.tar and cifar10.tar.gz."""

    sets: tuple[SetName, ...] = ("flowers17-5", "flowers17-20", "flowers17")
    contenders: tuple[Literal["none", "teacher", "unlabelled"], ...] = ("none", "teacher", "unlabelled")
    epochs: tuple[int, ...] = (40,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def runs(self) -> list[runs.Run]:
        """Return the runs asked for, without those that lack images to take the labels from."""
        return [run for run in super().runs() if TASKS[run.set].shots or run.contender != "unlabelled"]

    @property
    def weights(self) -> Path:
        """File of the teacher's weights."""
        path = self.work.absolute() / "teacher.pth"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_weights(path)
        return path


def train(task: Task, run: runs.Run, options: runs.Options) -> dict[str, float]:
    """Train by `rexnet train`; return the accuracy and latency of the student, and of the teacher that it had."""
    assert isinstance(options, Options)
    data = options.find(task.data)
    command = [
        *task.command(data),
        *([] if run.contender == "none" else ["--teacher", MODEL, "--teacher-weights", str(options.weights)]),
        *(["--unlabelled", f"{data}/train"] if run.contender == "unlabelled" else []),
    ]
    last = runs.train_by_command(command, run, options)
    latency_ms = measure_latencies(task, options)
    found = {"top1_percent": last["val_top1"], "batch_size": last["batch_size"], "latency_ms": latency_ms["student"]}
    if run.contender != "none":
        found |= {"teacher_top1_percent": last["teacher_top1"], "teacher_latency_ms": latency_ms["teacher"]}
    return found


@cache
def measure_latencies(task: Task, options: Options) -> dict[str, float]:
    """Return the median milliseconds for one image, on one thread, of the student and the teacher."""
    (teacher,) = open_teachers(TeacherConfig(teacher=(MODEL,), teacher_weights=str(options.weights)))
    student = create_model("rexnet", width=task.width, stem_stride=task.stem_stride)
    engine = Engine(threads=1)
    calls = {
        "student": _call_once(open_network(student, engine), task.image_px),
        "teacher": _call_once(open_network(teacher.network, engine), teacher.preprocess.image_size_px),
    }
    return {name: statistics.median(times) for name, times in interleaved_ms(calls, rounds=ROUNDS).items()}


def _call_once(network: Network, size_px: int) -> Callable[[], object]:
    return lambda: network(torch.zeros(1, 3, size_px, size_px))


def estimate_seconds(task: Task, run: runs.Run, options: runs.Options) -> tuple[float, float]:
    """Return how long an epoch and an evaluation take, if a step costs three calls of the student and one of the
    teacher for each image."""
    assert isinstance(options, Options)
    data = open_dataset(options.find(task.data))
    labelled = data.for_training(shots=task.shots)
    images = len(data.for_training().train if run.contender == "unlabelled" else labelled.train)
    latency_ms = measure_latencies(task, options)
    step_ms = 3 * latency_ms["student"] + (run.contender != "none") * latency_ms["teacher"]
    return images * step_ms / 1000, len(labelled.val) * latency_ms["student"] / 1000


def _no_rival(*_: object) -> Loop:
    raise AssertionError("all contenders are commands")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    setting = {"teacher": MODEL}
    runs.Benchmark(NAME, options, TASKS, train, _no_rival, setting, estimate_seconds).record()


if __name__ == "__main__":
    main()
