"""Trials of a search: samplers and pruners of Optuna, and the measurement of one candidate."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rexnet.errors import MissingPackageError, NonFiniteError
from rexnet.search.candidates import CandidateTrainer
from rexnet.search.config import EngineOptions, Sampler
from rexnet.search.results import Candidate, candidates_of
from rexnet.search.storage import ignore_experimental, require_optuna

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
"""Folder of unfinished training runs, within that of the search."""
_STARTUP_TRIALS = 10


@final
class TrialObjective:
    """Optuna's objective: measure the channels of a trial, and record everything else as user attributes of the
    trial."""

    def __init__(self, trainer: CandidateTrainer, study: "optuna.Study"):
        self.trainer, self.study, self.config = trainer, study, trainer.config
        self.current: int | None = None
        """Number of the running trial."""
        self._folder: Path | None = None

    def __call__(self, trial: "optuna.Trial") -> Sequence[float]:
        self.current, self._folder = trial.number, None
        channels = self.config.space.suggest(trial)
        cost = self.config.space.cost(channels)
        comparison = trial.user_attrs.get("comparison")
        if comparison is None and (same := self._find_measured(channels)) is not None:
            self._note(trial, **same.notes)
            if same.pruned:
                raise require_optuna().TrialPruned("reused from an earlier trial of the same network")
            return same.values
        self._note(trial, channels=channels, parameters=cost.parameters, macs=cost.macs)
        began = time.perf_counter()
        seed = self.config.engine.seed + trial.user_attrs.get("seed", 0)
        scores = self.trainer.measure_initial_ranks(channels, seed=seed)
        self._note(trial, scores=scores)
        values = {"macs": float(cost.macs), "effective_rank": scores["effective_rank"]}
        objectives = self.config.engine.objectives
        if "latency" in objectives:
            values["latency"] = self.trainer.measure_latency_ms(channels)
            self._note(trial, latency_ms=values["latency"])
        if "accuracy" in objectives:
            values["accuracy"] = self._train(trial, channels, seed)
        self._note(trial, seconds=round(time.perf_counter() - began, 2))
        return [values[name] for name in objectives]

    def _find_measured(self, channels: tuple[int, ...]) -> Candidate | None:
        """Return an earlier trial of the same network, which is not trained again."""
        sampled = (row for row in candidates_of(self.study) if row.comparison is None)
        return next((row for row in sampled if row.channels == channels), None)

    def _train(self, trial: "optuna.Trial", channels: tuple[int, ...], seed: int) -> float:
        """Return the mean over the repeats of the accuracy in the best epoch."""
        optuna = require_optuna()
        folder = self._folder = self._training_folder(trial, channels)
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
                curve = self.trainer.train(channels, seed=seed + repeat, folder=folder / str(repeat), watch=watch)
                by_epoch.append(curve)
                best.append(max(by_epoch[-1]))
                self._note(trial, accuracies=best, by_epoch=by_epoch)
        except NonFiniteError as error:
            logger.warning("%s is abandoned: %s", "-".join(map(str, channels)), error)
            raise optuna.TrialPruned("not finite") from error
        return fmean(best)

    def clean_up(self) -> None:
        """Remove the checkpoints of the running trial, once its metrics are in the storage."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _training_folder(self, trial: "optuna.Trial", channels: tuple[int, ...]) -> Path:
        """Return the folder of the training run, which is kept when the trial is queued again under a new number."""
        with ignore_experimental():
            retry = require_optuna().storages.RetryHeartbeatStaleTrialCallback
            first = retry.retried_trial_number(self.study.get_trials(deepcopy=False)[trial.number])
        number = trial.number if first is None else first
        name = "-".join(map(str, channels))
        return Path(self.config.engine.output) / UNFINISHED / f"{number}-{name}-{self.config.fingerprint()}"

    def _note(self, trial: "optuna.Trial", **notes: Any) -> None:
        for name, value in notes.items():
            trial.set_user_attr(name, value)


def make_sampler(engine: EngineOptions) -> "optuna.samplers.BaseSampler":
    """Return a sampler whose choices depend on (seed, trial number, finished trials), not on the process that runs the
    trial; otherwise, two processes with equal seeds would sample the same candidates."""
    optuna = require_optuna()
    make = _sampler_factory(engine.sampler)

    class SeededByTrial(optuna.samplers.BaseSampler):
        def before_trial(self, study: Any, trial: Any) -> None:
            seed = np.random.SeedSequence((engine.seed, trial.number)).generate_state(1)[0]
            self.current = make(int(seed))
            self.current.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self.current.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.current.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self.current.sample_independent(study, trial, name, distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self.current.after_trial(study, trial, state, values)

    return SeededByTrial()


def _sampler_factory(sampler: Sampler) -> Callable[[int], Any]:
    optuna = require_optuna()
    if sampler == "random":
        return lambda seed: optuna.samplers.RandomSampler(seed=seed)
    if sampler == "tpe":
        return lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)

    def cmaes(seed: int) -> Any:
        try:
            import cmaes  # noqa: F401  # imported by Optuna's sampler
        except ImportError as error:
            raise MissingPackageError("--sampler cmaes", "cmaes", "'rexnet[search]'") from error
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, warn_independent_sampling=False, with_margin=True
        )

    return cmaes


def make_pruner(engine: EngineOptions) -> "optuna.pruners.BasePruner":
    """Return the pruner of --prune-worst."""
    optuna = require_optuna()
    if engine.prune_worst is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(100.0 * (1.0 - engine.prune_worst), n_startup_trials=_STARTUP_TRIALS)
