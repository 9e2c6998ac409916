"""How the next candidate is chosen: Optuna's samplers and pruner."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rexnet.search.config import EngineOptions, Sampler
from rexnet.search.storage import require_optuna

if TYPE_CHECKING:
    import optuna

_STARTUP_TRIALS = 10


def make_sampler(engine: EngineOptions) -> "optuna.samplers.BaseSampler":
    """Draws of a trial follow from (seed, number of the trial, what is finished), whichever process it falls to: two
    that start alike would draw the same otherwise."""
    optuna = require_optuna()
    make = _maker(engine.sampler)

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


def _maker(sampler: Sampler) -> Callable[[int], Any]:
    optuna = require_optuna()
    if sampler == "random":
        return lambda seed: optuna.samplers.RandomSampler(seed=seed)
    if sampler == "tpe":
        return lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)

    def cmaes(seed: int) -> Any:
        try:
            import cmaes  # noqa: F401  # what Optuna's sampler imports
        except ImportError as error:
            raise ValueError("--sampler cmaes needs the library cmaes; pip install 'rexnet[search]'") from error
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, warn_independent_sampling=False, with_margin=True
        )

    return cmaes


def make_pruner(engine: EngineOptions) -> "optuna.pruners.BasePruner":
    optuna = require_optuna()
    if engine.prune_worst is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(100.0 * (1.0 - engine.prune_worst), n_startup_trials=_STARTUP_TRIALS)
