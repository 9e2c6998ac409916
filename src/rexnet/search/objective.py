"""What a trial of the search does: from channels to the values of the objectives."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

from rexnet.errors import NonFiniteError
from rexnet.search.candidates import CandidateTrainer
from rexnet.search.results import Candidate, candidates_of
from rexnet.search.storage import known_experiments, require_optuna

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
"""Folder, in that of the search, of trainings in progress."""


@final
class Objective:
    """What Optuna calls for each trial: from channels to values, everything else noted beside them."""

    def __init__(self, trainer: CandidateTrainer, study: "optuna.Study"):
        self.trainer, self.study, self.config = trainer, study, trainer.config
        self.current: int | None = None
        """Number of the trial at work."""
        self._folder: Path | None = None

    def __call__(self, trial: "optuna.Trial") -> Sequence[float]:
        self.current, self._folder = trial.number, None
        channels = self.config.space.suggest(trial)
        cost = self.config.space.cost(channels)
        comparison = trial.user_attrs.get("comparison")
        if comparison is None and (same := self._measured(channels)) is not None:
            self._note(trial, **same.notes)
            if same.pruned:
                raise require_optuna().TrialPruned("as when it was drawn before")
            return same.values
        self._note(trial, channels=channels, parameters=cost.parameters, macs=cost.macs)
        began = time.perf_counter()
        seed = self.config.engine.seed + trial.user_attrs.get("seed", 0)
        scores = self.trainer.initial_ranks(channels, seed=seed)
        self._note(trial, scores=scores)
        values = {"macs": float(cost.macs), "effective_rank": scores["effective_rank"]}
        objectives = self.config.engine.objectives
        if "latency" in objectives:
            values["latency"] = self.trainer.latency_ms(channels)
            self._note(trial, latency_ms=values["latency"])
        if "accuracy" in objectives:
            values["accuracy"] = self._accuracy(trial, channels, seed)
        self._note(trial, seconds=round(time.perf_counter() - began, 2))
        return [values[name] for name in objectives]

    def _measured(self, channels: tuple[int, ...]) -> Candidate | None:
        """The same network, drawn before: it is not trained again."""
        drawn = (row for row in candidates_of(self.study) if row.comparison is None)
        return next((row for row in drawn if row.channels == channels), None)

    def _accuracy(self, trial: "optuna.Trial", channels: tuple[int, ...], seed: int) -> float:
        """Mean over the repeats of each one's best epoch."""
        optuna = require_optuna()
        folder = self._folder = self._place(trial, channels)
        pruning = self.config.engine.prune_worst is not None
        best: list[float] = []
        by_epoch: list[list[float]] = []

        def watch(epoch: int, accuracy: float) -> None:
            if pruning and not best:
                trial.report(accuracy, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned(f"among the worst after epoch {epoch}")

        try:
            for repeat in range(self.config.training.repeats):
                place = folder / str(repeat)
                by_epoch.append(self.trainer.train(channels, seed=seed + repeat, folder=place, watch=watch))
                best.append(max(by_epoch[-1]))
                self._note(trial, accuracies=best, by_epoch=by_epoch)
        except NonFiniteError as error:
            logger.warning("%s is given up: %s", "-".join(map(str, channels)), error)
            raise optuna.TrialPruned("not finite") from error
        return fmean(best)

    def clean_up(self) -> None:
        """Removes the checkpoints of the trial at work, when its figures are in the storage."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, trial: "optuna.Trial", channels: tuple[int, ...]) -> Path:
        """For what is trained so far, the same when the trial is taken up again, under a new number."""
        with known_experiments():
            retry = require_optuna().storages.RetryHeartbeatStaleTrialCallback
            first = retry.retried_trial_number(self.study.get_trials(deepcopy=False)[trial.number])
        number = trial.number if first is None else first
        name = "-".join(map(str, channels))
        return Path(self.config.engine.output) / UNFINISHED / f"{number}-{name}-{self.config.fingerprint()}"

    def _note(self, trial: "optuna.Trial", **notes: Any) -> None:
        for name, value in notes.items():
            trial.set_user_attr(name, value)
