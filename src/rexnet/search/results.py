"""Candidates measured by a search so far, read from its storage, and the export of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from rexnet.search.config import DIRECTIONS, Objective
from rexnet.search.storage import require_optuna

if TYPE_CHECKING:
    import optuna


from rexnet.errors import OptionError
from rexnet.files import check_output_file, write_whole
from rexnet.models.config import RexNetConfig, config_text
from rexnet.search.config import BEST, EngineOptions, ExportConfig, SearchConfig
from rexnet.search.shape import fit_line
from rexnet.search.space import Space, scaled_config
from rexnet.search.storage import existing_study, settings_of


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished trial."""

    number: int
    channels: tuple[int, ...]
    values: tuple[float, ...]
    """Values of the search's objectives; empty if the trial was pruned."""
    parameters: int
    macs: int
    comparison: Literal["line", "stages"] | None
    """Kind of a predefined network; None for a sampled one."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores without training, see `CandidateTrainer.measure_initial_ranks`."""
    accuracies: tuple[float, ...] = ()
    """Accuracy of each repeat in percent."""
    by_epoch: tuple[tuple[float, ...], ...] = ()
    """Accuracy of each repeat after each epoch in percent."""
    latency_ms: float | None = None
    seconds: float | None = None

    @property
    def pruned(self) -> bool:
        return not self.values

    @property
    def accuracy(self) -> float | None:
        """Mean of the repeats in percent; None if it was not trained to the end."""
        return None if self.pruned or not self.accuracies else sum(self.accuracies) / len(self.accuracies)

    @property
    def name(self) -> str:
        return "-".join(map(str, self.channels))

    @property
    def notes(self) -> dict[str, Any]:
        """User attributes of its trial in the storage."""
        names = ("channels", "parameters", "macs", "scores", "accuracies", "by_epoch", "latency_ms")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def candidates_of(study: "optuna.Study") -> list[Candidate]:
    """Return the finished trials in the order of their numbers, without failed ones."""
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
    """Return the distinct networks that were measured to the end, best first by `objective`, by default the search's
    first one. Each has the mean over its seeds, so that a lucky seed does not win."""
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


def export(config: ExportConfig) -> RexNetConfig:
    """Write the file and return the network. Raise ValueError if the search has no such candidate."""
    check_output_file(config.output)
    engine = EngineOptions(output=config.search, storage=config.storage, study=config.study)
    study = existing_study(engine)
    settings = settings_of(study)
    chosen = _choose(config.candidate, candidates_of(study), settings)
    space = replace(
        settings.space,
        stem_stride=config.stem_stride or settings.space.stem_stride,
        strided_blocks=config.strided_blocks or settings.space.strided_blocks,
    )
    network = _network(chosen.channels, space, config.width)
    write_whole(config.output, config_text(network))
    return network


def _network(channels: Sequence[int], space: Space, width: float | None) -> RexNetConfig:
    num_classes = RexNetConfig.__dataclass_fields__["num_classes"].default
    if width is None:
        return space.config(channels, num_classes=num_classes)
    return scaled_config(fit_line(channels), space, width=width, num_classes=num_classes)


def _choose(wanted: str, found: list[Candidate], settings: SearchConfig) -> Candidate:
    ranked = best_first(found, settings.engine.objectives[0])
    if not ranked:
        raise ValueError("the search has no finished candidate yet")
    if wanted == BEST:
        return ranked[0]
    for row in found:
        if wanted in (str(row.number), row.name):
            return row
    raise OptionError(f"--candidate is {wanted!r}; allowed: best, a number up to {found[-1].number}, or its channels")
