"""Paired runs of contenders on the same sets: which results/ lacks, the hours that they take, a row for each."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

import records
from recipe_sets import find_set
from rivals import RIVALS, Loop


class Run(NamedTuple):
    """A training run; the names of its fields are keys of its row."""

    set: str
    contender: str
    epochs: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/SCRIPT.py FOLDER` with that of flowers17.tar, cifar10.tar.gz and tiny_coco.tar."""

    shared: tyro.conf.Positional[Path]
    work: Path = Path("build/recipes")
    """Where the sets are unpacked and made."""
    sets: tuple[str, ...]
    contenders: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    threads: int = 1
    arguments: str = ""
    """More arguments of the rexnet command, as a shell reads them. They stand in the rows."""

    def find(self, data: str) -> str:
        """Return the DATA of a set of recipe_sets."""
        return find_set(data, shared=self.shared, work=self.work)

    def runs(self) -> list[Run]:
        """Return all runs asked for, so that early seeds of all sets and contenders come first."""
        runs = product(self.epochs, self.seeds, self.sets, self.contenders)
        return [Run(name, contender, epochs, seed) for epochs, seed, name, contender in runs]


class Benchmark(NamedTuple):
    """Contenders on named sets: `rexnet` trains by the command and returns metrics, a rival in the loop of `make_loop`.
    Both take the set's task, which stands in the rows with `setting`. `seconds` of an epoch and an evaluation are those
    of the plain loop, or as given."""

    name: str
    options: Options
    tasks: Mapping[str, Any]
    rexnet: Callable[[Any, Run, Options], dict[str, float]]
    make_loop: Callable[[Any, Run, Options], Loop]
    setting: dict[str, Any]
    seconds: Callable[[Any, Run, Options], tuple[float, float]] | None = None

    def train(self, run: Run) -> dict[str, float]:
        """Return the metrics after the last epoch."""
        if run.contender not in RIVALS:
            return self.rexnet(self.tasks[run.set], run, self.options)
        loop = self.make_loop(self.tasks[run.set], run, self.options)
        loop.fit(run.epochs)
        return loop.evaluate(loop.val)

    def record(self) -> None:
        """Print the hours, then make each run that results/NAME.jsonl lacks and append its row."""
        records.start()
        torch.set_num_threads(self.options.threads)
        given = {**self.setting, **({"arguments": self.options.arguments} if self.options.arguments else {})}
        rows = records.read(self.name)
        done = [_identity(row) for row in rows]
        missing = [run for run in self.options.runs() if _identity({**given, **run._asdict()}) not in done]
        self.print_hours(missing, rows)
        for run in missing:
            began, used = time.perf_counter(), _processor_seconds()
            metrics = {key: round(value, 2) for key, value in self.train(run).items()}
            took = {"minutes": time.perf_counter() - began, "processor_minutes": _processor_seconds() - used}
            row = {**run._asdict(), **metrics, **{name: round(seconds / 60, 2) for name, seconds in took.items()}}
            print(json.dumps(row), flush=True)
            setting = {**self.tasks[run.set]._asdict(), **given}
            records.append(self.name, {**setting, **row, **records.provenance("cpu")})

    def print_hours(self, missing: Sequence[Run], rows: Sequence[dict[str, Any]]) -> None:
        """Print how long runs will take, by set and contender, and from what that is estimated: recorded rows of both
        with as many threads, or else steps and evaluation measured now. `rexnet` evaluates after every epoch, a loop
        once."""

        @cache
        def measure(name: str, contender: str) -> tuple[float, float]:
            if self.seconds is not None:
                return self.seconds(self.tasks[name], Run(name, contender, 1, 0), self.options)
            return self.make_loop(self.tasks[name], Run(name, "plain", 1, 0), self.options).seconds()

        total = 0.0
        for name, contender in dict.fromkeys((run.set, run.contender) for run in missing):
            alike = [row for row in rows if (row["set"], row["contender"]) == (name, contender)]
            known = [60 * row["minutes"] / row["epochs"] for row in alike if row["threads"] == self.options.threads]
            epoch_s, evaluation_s = (statistics.median(known), 0.0) if known else measure(name, contender)
            epochs = [run.epochs for run in missing if (run.set, run.contender) == (name, contender)]
            evaluations = len(epochs) if contender in RIVALS else sum(epochs)
            hours = (sum(epochs) * epoch_s + evaluations * evaluation_s) / 3600
            source = "recorded minutes" if known else "a few measured steps"
            print(f"{name}, {contender}: {len(epochs)} runs, {hours:.2f} hours, from {source}")
            total += hours
        print(f"{len(missing)} runs, {total:.2f} hours", flush=True)


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two rows of the same run have in common."""
    return tuple(row.get(key) for key in (*Run._fields, "arguments", "weights_sha256"))


def _processor_seconds() -> float:
    """Return what this process and its ended children have used, which other work on the machine does not lengthen."""
    return sum(os.times()[:4])


def train_by_command(command: Sequence[str], run: Run, options: Options) -> dict[str, float]:
    """Return the metrics after the last epoch of `python -m rexnet COMMAND...` with the run's epochs and seed, the
    batch size that it chose, and "teacher_top1" where it has a teacher."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(sys.executable, "-m", "rexnet", *command, "--epochs", str(run.epochs), "--seed", str(run.seed)),
            *("--threads", str(options.threads), "--device", "cpu", "--output", f"{folder}/run"),
            *shlex.split(options.arguments),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{shlex.join(words)}\n{done.stderr}")
        run_folder = Path(folder, "run")
        last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
        last["batch_size"] = json.loads((run_folder / "config.json").read_text())["run"]["batch_size"]
        if (teachers := run_folder / "teachers.json").exists():
            last["teacher_top1"] = json.loads(teachers.read_text())["teachers"][0]["val_top1"]
        return last
