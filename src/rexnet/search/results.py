"""What a search has found so far, read from its storage."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from rexnet.search.config import DIRECTIONS, Objective, told
from rexnet.search.storage import require_optuna
from rexnet.search.trend import fit_line

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished trial."""

    number: int
    channels: tuple[int, ...]
    values: tuple[float, ...]
    """Of the search's objectives; empty where the trial was pruned."""
    parameters: int
    macs: int
    comparison: Literal["line", "stages"] | None
    """What it is where it was not drawn."""
    scores: dict[str, float] = field(default_factory=dict)
    """Without training, see `CandidateTrainer.initial_ranks`."""
    accuracies: tuple[float, ...] = ()
    """Of each repeat, percent."""
    by_epoch: tuple[tuple[float, ...], ...] = ()
    """Of each repeat, after each epoch."""
    latency_ms: float | None = None
    seconds: float | None = None

    @property
    def pruned(self) -> bool:
        return not self.values

    @property
    def accuracy(self) -> float | None:
        """Percent, the mean of the repeats; None where it was not trained to the end."""
        return None if self.pruned or not self.accuracies else sum(self.accuracies) / len(self.accuracies)

    @property
    def name(self) -> str:
        return "-".join(map(str, self.channels))

    @property
    def notes(self) -> dict[str, Any]:
        """What the storage holds of it beside number and values."""
        names = ("channels", "parameters", "macs", "scores", "accuracies", "by_epoch", "latency_ms")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def candidates_of(study: "optuna.Study") -> list[Candidate]:
    """All trials that are finished, in the order of their numbers; failed and unfinished ones left out."""
    state = require_optuna().trial.TrialState
    trials = study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))
    return [_candidate(trial, pruned=trial.state == state.PRUNED) for trial in trials]


def _candidate(trial: "optuna.trial.FrozenTrial", *, pruned: bool) -> Candidate:
    notes = trial.user_attrs
    return Candidate(
        number=trial.number,
        channels=tuple(notes["channels"]),
        values=() if pruned else tuple(trial.values),
        parameters=notes["parameters"],
        macs=notes["macs"],
        comparison=notes.get("comparison"),
        scores=notes.get("scores", {}),
        accuracies=tuple(notes.get("accuracies", ())),
        by_epoch=tuple(map(tuple, notes.get("by_epoch", ()))),
        latency_ms=notes.get("latency_ms"),
        seconds=notes.get("seconds"),
    )


def best_first(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """The different networks that were measured to the end, by `objective`, the first one of the search; each with the
    mean of what it reached where it was measured with several seeds, or luck would win."""
    by_channels: dict[tuple[int, ...], list[Candidate]] = {}
    for row in candidates:
        if not row.pruned:
            by_channels.setdefault(row.channels, []).append(row)
    means = [
        replace(rows[0], values=tuple(map(fmean, zip(*(row.values for row in rows), strict=True))))
        for rows in by_channels.values()
    ]
    sign = -1 if DIRECTIONS[objective] == "maximize" else 1
    return sorted(means, key=lambda row: (sign * row.values[0], row.number))


class Teller:
    """Logs each candidate once, when it is finished."""

    def __init__(self, study: "optuna.Study", objectives: Sequence[Objective]):
        self._study, self._objectives = study, objectives
        self._told = {candidate.number for candidate in candidates_of(study)}

    def tell(self) -> None:
        for row in candidates_of(self._study):
            if row.number not in self._told:
                self._told.add(row.number)
                logger.info("%s", self._line(row))

    def _line(self, row: Candidate) -> str:
        reached = zip(self._objectives, row.values, strict=False)
        result = ", ".join(f"{name} {told(name, value)}" for name, value in reached) or "stopped early"
        cost = f"{row.parameters / 1e6:.3f} M parameters, {row.macs / 1e6:.1f} M MACs"
        spent = f", {timedelta(seconds=round(row.seconds))}" if row.seconds is not None else ", measured before"
        off = f"off a line by {fit_line(row.channels).residual:.1%}"
        return f"candidate {row.number}: {row.name}  {result}  ({cost}, {off}{spent})"
