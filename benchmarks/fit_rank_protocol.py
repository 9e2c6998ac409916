"""Fits the free choices of the rank study to the paper's Fig. 1 and records the residuals of each candidate.

A candidate is the default protocol with a few fields changed. The single convolutions and the bottlenecks share sizes,
samples, inputs and tolerance; the expansions are fitted for the bottlenecks alone. Every candidate sees the same seeds.
"""

import itertools
import json
import statistics
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro

import records
from rexnet.study.networks import BLOCKS
from rexnet.study.protocol import Protocol
from rexnet.study.published import PUBLISHED, misordered, residuals
from rexnet.study.summary import cell_means
from rexnet.study.sweep import list_tasks, measure

SINGLE = ("conv1x1", "conv3x3")
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "single": [
        {"smallest_size": low, "largest_size": high, "samples_per_channel": samples, "tolerance": tolerance, **more}
        for (low, high), (samples, tolerance), more in itertools.product(
            ((30, 70), (30, 80), (20, 100), (10, 160)),
            ((2.0, 1e-4), (2.0, 2e-4), (3.0, 2e-4), (3.0, 5e-4)),
            ({"inputs": "half_normal"}, {"inputs": "uniform"}),
        )
    ],
    "bottleneck3x3": [{"expansion": law} for law in ("uniform:0:6", "uniform:0:5", "uniform:0:5.5", "constant:6")],
    "bottleneck_depthwise": [
        {"depthwise_expansion": law}
        for law in ("log_uniform:0.03:9", "log_uniform:0.03:8", "log_uniform:0.02:8", "uniform:0:6", "constant:6")
    ],
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which candidates to try."""

    what: Literal["single", "bottleneck3x3", "bottleneck_depthwise", "defaults"] = "defaults"
    """The grid of CANDIDATES, or the default protocol alone, all four panels."""
    networks: int = 200
    """A cell."""
    change: str = "{}"
    """JSON of further fields that every candidate has."""
    record: bool = True
    """Append rows to results/."""


def compare(protocol: Protocol, networks: int) -> dict[str, Any]:
    """Residuals of each panel of `protocol`."""
    rows = [row for task in list_tasks(protocol, networks) for row in measure(protocol, task)]
    panels = {}
    for block in protocol.blocks:
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
    torch.set_num_threads(1)
    blocks = {"single": SINGLE, "defaults": tuple(BLOCKS)}.get(options.what, (options.what,))
    ratios = tuple(sorted({ratio for block in blocks for curve in PUBLISHED[block].values() for ratio in curve}))
    start = replace(Protocol(blocks=blocks, ratios=ratios), **json.loads(options.change))
    for change in CANDIDATES.get(options.what, [{}]):
        protocol = replace(start, **change)
        panels = compare(protocol, options.networks)
        errors = {block: panel["mean_absolute_error"] for block, panel in panels.items()}
        print(change, errors, {block: panel["misordered"] for block, panel in panels.items()}, flush=True)
        if options.record:
            row = {"what": options.what, "networks": options.networks, "change": change, "panels": panels}
            records.append("rank_protocol_fit", {**row, "protocol": protocol.as_dict(), **records.provenance("cpu")})


if __name__ == "__main__":
    main()
