"""Fit the free choices of the rank study to the paper's Fig. 1 and records the residuals of each candidate.

A candidate is the default protocol with a few fields changed. The single convolutions and the bottlenecks share sizes,
samples, inputs and tolerance; the expansions are fitted for the bottlenecks alone. Every candidate sees the same seeds.
"""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro

import records
from rexnet.study.networks import BLOCKS
from rexnet.study.protocol import Protocol
from rexnet.study.published import PUBLISHED
from rexnet.study.rank_table import cell_means, list_tasks, measure

READING_ERROR = {"conv1x1": 0.005, "conv3x3": 0.005, "bottleneck3x3": 0.01, "bottleneck_depthwise": 0.01}
SINGLE = ("conv1x1", "conv3x3")
OLDER: dict[str, Any] = {
    "smallest_size": 30,
    "largest_size": 70,
    "size_step": 10,
    "samples_per_channel": 2.0,
    "tolerance": 2e-4,
    "weights": "normal",
    "weight_scale": 1.0,
}
"""The defaults before the scale of the weights was tried."""
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "single": [
        OLDER,
        {**OLDER, "weights": "lecun", "weight_scale": 3.0},
        *(
            {**sizes, "samples_per_channel": samples, "weight_scale": scale}
            for sizes, samples, scale in itertools.product(
                ({}, {"smallest_size": 10, "largest_size": 130, "size_step": 10}), (2.0, 3.0), (2.0, 2.5, 3.0)
            )
        ),
    ],
    "bottleneck3x3": [{"expansion": law} for law in ("log_uniform:0.3:8", "uniform:0:5", "constant:6")],
    "bottleneck_depthwise": [
        {"depthwise_expansion": law}
        for law in ("log_uniform:0.02:8", "log_uniform:0.01:8", "log_uniform:0.01:6", "constant:6")
    ],
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The candidates to try."""

    what: Literal["single", "bottleneck3x3", "bottleneck_depthwise", "defaults"] = "defaults"
    """The grid of CANDIDATES, or the default protocol alone, all four panels."""
    networks: int = 200
    """A cell."""
    change: str = "{}"
    """JSON of further fields that every candidate has."""
    record: bool = True
    """Append rows to results/."""


def residuals(block: str, measured: Mapping[str, Mapping[float, float]]) -> list[float]:
    """Return measured less published values wherever both are there; Linear, its ratio by construction, is skipped."""
    return [
        measured[name][ratio] - value
        for name, curve in PUBLISHED[block].items()
        for ratio, value in curve.items()
        if name != "linear" and name in measured and ratio in measured[name]
    ]


def misordered(block: str, measured: Mapping[str, Mapping[float, float]], *, up_to: float = 0.5) -> list[str]:
    """List pairs of curves whose order at a ratio up to `up_to` is not the published one, where that can be read: the
    published values are more than two reading errors apart."""
    found, curves = [], PUBLISHED[block]
    for upper in curves:
        for lower in curves:
            for ratio, value in curves[upper].items():
                if ratio > up_to or ratio not in curves[lower] or upper not in measured or lower not in measured:
                    continue
                readable = value - curves[lower][ratio] > 2 * READING_ERROR[block]
                if readable and measured[upper][ratio] <= measured[lower][ratio]:
                    found.append(f"{upper} > {lower} at {ratio}")
    return found


def compare(rows: Sequence[Sequence[str]], blocks: Sequence[str]) -> dict[str, Any]:
    """Return the residuals of each panel, from the rows of a study."""
    panels = {}
    for block in blocks:
        measured = cell_means(rows, block)
        errors = residuals(block, measured)
        panels[block] = {
            "mean_absolute_error": round(statistics.mean(map(abs, errors)), 4),
            "largest_error": round(max(errors, key=abs), 3),
            "misordered": misordered(block, measured),
            "measured": {name: {str(r): round(v, 4) for r, v in curve.items()} for name, curve in measured.items()},
        }
    return panels


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(1)
    blocks = {"single": SINGLE, "defaults": tuple(BLOCKS)}.get(options.what, (options.what,))
    ratios = tuple(sorted({ratio for block in blocks for curve in PUBLISHED[block].values() for ratio in curve}))
    start = replace(Protocol(blocks=blocks, ratios=ratios), **json.loads(options.change))
    for change in CANDIDATES.get(options.what, [{}]):
        protocol = replace(start, **change)
        rows = [row for task in list_tasks(protocol, options.networks) for row in measure(protocol, task)]
        panels = compare(rows, blocks)
        errors = {block: panel["mean_absolute_error"] for block, panel in panels.items()}
        print(change, errors, {block: panel["misordered"] for block, panel in panels.items()}, flush=True)
        if options.record:
            row = {"what": options.what, "networks": options.networks, "change": change, "panels": panels}
            records.append("rank_protocol_fit", {**row, "protocol": protocol.as_dict(), **records.provenance("cpu")})


if __name__ == "__main__":
    main()
