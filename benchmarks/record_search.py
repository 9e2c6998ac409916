"""Append the results of a search to results/search.jsonl: its groups, lines, comparison and predictors."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import records
from rexnet.search.analysis import (
    compare_line_and_stages,
    compare_residuals,
    correlate_predictors,
    rank_sampled,
    split_groups,
)
from rexnet.search.config import EngineOptions
from rexnet.search.recipes import known_constraint
from rexnet.search.results import candidates_of
from rexnet.search.storage import describe_data, existing_study, settings_of

NAME = "search"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/record_search.py SEARCH --title "CIFAR-10" --command "rexnet search run cifar10"`"""

    search: Annotated[Path, tyro.conf.Positional]
    """Folder of `rexnet search run`."""
    command: str
    """Command that made the folder, as typed."""
    title: str
    """Name of the data in the tables."""


def row(options: Options) -> dict[str, Any]:
    study = existing_study(EngineOptions(output=str(options.search)))
    settings, found = settings_of(study), candidates_of(study)
    ranked = rank_sampled(found)
    comparison, nearer = compare_line_and_stages(found), compare_residuals(found)
    # Without the paths of this machine.
    protocol = {name: asdict(getattr(settings, name)) for name in ("space", "images", "training", "optim", "schedule")}
    return {
        "title": options.title,
        "data": describe_data(study),
        "constraint": known_constraint(settings),
        "recipe": settings.recipe,
        "sampler": settings.engine.sampler,
        "protocol": protocol,
        "candidates": len(ranked),
        "trainings": sum(len(candidate.accuracies) for candidate in found),
        "seconds_a_candidate": round(sum(row.seconds or 0.0 for row in ranked) / len(ranked), 1),
        "groups": [asdict(group) for group in split_groups(found, settings.space)],
        "line_and_stages": comparison and comparison._asdict(),
        "top_less_bottom_residual": nearer,
        "predictors": correlate_predictors(found),
        "best": [[candidate.name, candidate.accuracy] for candidate in ranked[:5]],
        "worst": [[candidate.name, candidate.accuracy] for candidate in ranked[-5:]],
        "data_command": options.command,
        **records.provenance("cpu"),
    }


def main() -> None:
    records.start()
    print(f"appended to {records.append(NAME, row(tyro.cli(Options, description=__doc__)))}")


if __name__ == "__main__":
    main()
