"""`rexnet train --latency-budget-ms`: the width is found before the training, which knows nothing of engines."""

import re
from dataclasses import dataclass, fields, replace

from rexnet.errors import OptionError, require
from rexnet.models.variants import FAMILIES
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import process_count


@dataclass(frozen=True, kw_only=True)
class BudgetedTrainConfig(TrainConfig):
    __doc__ = TrainConfig.__doc__

    latency_budget_ms: float | None = None
    """Train the widest network of --model's family that needs at most this long for one image on this machine, in the
    fastest engine, as rexnet fit-budget finds it; with 1000 classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        budget = self.latency_budget_ms
        require(budget is None or budget > 0, "latency_budget_ms", budget, "above 0, or None")


def with_budget(config: TrainConfig) -> BudgetedTrainConfig:
    return BudgetedTrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})


def without_budget(config: BudgetedTrainConfig) -> TrainConfig:
    return TrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})


def family_of(model: str) -> str | None:
    """Of "rexnet" or "rexnet_117"; None for a network without a width."""
    named = re.fullmatch(rf"({'|'.join(FAMILIES)})(?:_[\d.]+)?", model)
    return named and named[1]


def resolved(options: BudgetedTrainConfig) -> TrainConfig:
    """The settings of the training, with the network that was found; shows how. OptionError beside other options that
    decide the width, and in a run of several processes, which would disturb each other."""
    config = without_budget(options)
    if options.latency_budget_ms is None:
        return config
    family = family_of(config.network.model)
    if family is None or config.network.width is not None or config.run.resume is not False:
        allowed = f"--model {', '.join(FAMILIES)}, without --width and --resume"
        raise OptionError(f"--latency-budget-ms decides the width; allowed beside it: {allowed}")
    if process_count() > 1:
        raise OptionError("--latency-budget-ms measures in a single process; run rexnet fit-budget first")
    from rexnet.cli.deploy import show_budget
    from rexnet.deploy.budget import BudgetConfig, fit_budget

    found = fit_budget(
        BudgetConfig(
            latency_ms=options.latency_budget_ms,
            family=family,
            size=config.input.image_size,
            threads=config.run.threads,
            stem_stride=config.network.stem_stride,
        )
    )
    show_budget(found)
    return replace(config, network=replace(config.network, model=found.chosen.model))
