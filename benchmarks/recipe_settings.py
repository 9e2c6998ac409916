"""Search the settings of the default recipe for few steps on two sets, and confirm the best on other sets.

Optuna's TPE proposes settings, the recipe's own first; a trial is the mean top-1 of the search sets over the seeds, by
`rexnet train` with the settings typed. `--confirm N` then trains with the N best settings and the recipe's own on the
other sets. One row a trial; a second call continues.
"""

import shlex
import statistics
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import optuna
import tyro

import records
import runs
from recipes import TASKS

NAME = "recipe_settings_cpu"
SEARCH_SETS, LEFT_OUT = ("flowers17-10", "shapes"), ("flowers17", "cifar10-2000", "digits")
SPACE = {
    "lr": optuna.distributions.FloatDistribution(0.005, 0.06, log=True),
    "weight-decay": optuna.distributions.FloatDistribution(0.005, 0.3, log=True),
    "warmup-epochs": optuna.distributions.FloatDistribution(0.25, 2.5, step=0.25),
    "label-smoothing": optuna.distributions.FloatDistribution(0.0, 0.2, step=0.05),
}
OWN: dict[str, float] = {}
"""The recipe's own settings: nothing is typed."""


@dataclass(frozen=True, kw_only=True)
class Options(runs.Options):
    """`python benchmarks/recipe_settings.py FOLDER` with that of flowers17.tar, cifar10.tar.gz and tiny_coco.tar."""

    sets: tuple[str, ...] = SEARCH_SETS
    contenders: tuple[str, ...] = ("rexnet",)
    epochs: tuple[int, ...] = (5,)
    seeds: tuple[int, ...] = (0, 1)
    trials: int = 24
    confirm: int = 0
    """The best settings to compare with the recipe's own on the other sets; no trials are added."""


def words_of(settings: dict[str, float]) -> str:
    """Return the options of `rexnet train` for settings of SPACE."""
    return shlex.join(word for name, value in settings.items() for word in (f"--{name}", f"{value:.4g}"))


def measure(settings: dict[str, float], options: Options) -> dict[str, Any]:
    """Return the mean top-1 of each set, and of all, with the settings."""
    typed = replace(options, arguments=words_of(settings))
    top1: dict[str, float] = {}
    for name in options.sets:
        task = TASKS[name]
        command = task.command(options.find(task.data))
        trained = [runs.train_by_command(command, run, typed) for run in typed.runs() if run.set == name]
        top1[name] = round(statistics.mean(last["val_top1"] for last in trained), 2)
    return {"top1_percent": top1, "score": round(statistics.mean(top1.values()), 2)}


def trial_rows(rows: list[dict[str, Any]], sets: tuple[str, ...]) -> list[dict[str, Any]]:
    return [row for row in rows if tuple(row["sets"]) == sets]


def propose(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the settings of the next trial after those of `rows`: the recipe's own, then TPE's."""
    if not rows:
        return OWN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `multivariate`
        sampler = optuna.samplers.TPESampler(seed=len(rows), n_startup_trials=8, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in rows:
        if row["settings"]:
            study.add_trial(
                optuna.create_trial(params=row["settings"], distributions=SPACE, value=row["score"])  # pyright: ignore[reportArgumentType]
            )
    return dict(study.ask(SPACE).params)  # pyright: ignore[reportArgumentType]


def record(settings: dict[str, float], options: Options) -> None:
    began = time.perf_counter()
    row = {"sets": options.sets, "epochs": options.epochs[0], "seeds": options.seeds, "settings": settings}
    row |= measure(settings, options)
    print(row, flush=True)
    records.append(NAME, {**row, "minutes": round((time.perf_counter() - began) / 60, 2), **records.provenance("cpu")})


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.confirm:
        found = [row for row in trial_rows(records.read(NAME), SEARCH_SETS) if row["settings"] != OWN]
        best = sorted(found, key=lambda row: -row["score"])
        others = replace(options, sets=LEFT_OUT)
        done = [row["settings"] for row in trial_rows(records.read(NAME), LEFT_OUT)]
        for settings in [OWN, *(row["settings"] for row in best[: options.confirm])]:
            if settings not in done:
                record(settings, others)
                done.append(settings)
        return
    while len(rows := trial_rows(records.read(NAME), options.sets)) < options.trials:
        record(propose(rows), options)


if __name__ == "__main__":
    main()
