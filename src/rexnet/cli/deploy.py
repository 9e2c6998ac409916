"""Commands about running a network fast."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rexnet.cli.options import read_options
from rexnet.cli.tables import new_table, show

if TYPE_CHECKING:
    from rexnet.deploy.budget import BudgetFit


def bench(arguments: Sequence[str]) -> None:
    """Measure how fast networks run on this machine"""
    from rexnet.deploy.bench import BenchConfig
    from rexnet.deploy.bench import bench as measure

    config = read_options("bench", BenchConfig, arguments)
    rows = measure(config)
    for batch, size_px in dict.fromkeys((row.batch, row.image_size_px) for row in rows):
        print(f"batch {batch}, {size_px} px")
        table = new_table("network", "engine", "ms", "quartiles", "p95", "images/s", *["MiB"] * config.memory)
        for row in rows:
            if (row.batch, row.image_size_px) != (batch, size_px):
                continue
            low, high = row.quartiles_ms
            times = (f"{row.median_ms:.4g}", f"{low:.4g}-{high:.4g}", f"{row.p95_ms:.4g}", f"{row.images_per_s:.1f}")
            memory = ["-" if row.peak_mib is None else f"{row.peak_mib:.0f}"] * config.memory
            table.add_row(row.model, f"{row.backend} {row.precision}", *times, *memory)
        show(table)
    for path in filter(None, (config.output, config.plot)):
        print(f"written: {path}")


def fit_budget(arguments: Sequence[str]) -> None:
    """Find the widest network that is fast enough on this machine"""
    from rexnet.deploy.budget import BudgetConfig
    from rexnet.deploy.budget import fit_budget as fit

    found = fit(read_options("fit-budget", BudgetConfig, arguments))
    show_budget(found)
    print(f"go on with: {found.train_command}")


def show_budget(found: "BudgetFit") -> None:
    with_memory = any(one.measured.peak_mib is not None for one in found.candidates)
    table = new_table(
        "network", "px", "M params", "M MACs", "predicted ms", "measured", *["MiB"] * with_memory, "verdict"
    )
    verdicts = {found.chosen: "chosen", **{other: "widest here" for other in found.others}}
    for one in found.candidates:
        sizes = (str(one.image_size_px), f"{one.parameters / 1e6:.2f}", f"{one.macs / 1e6:.1f}")
        predicted = "-" if one.predicted_ms is None else f"{one.predicted_ms:.2f}"
        memory = ["-" if one.measured.peak_mib is None else f"{one.measured.peak_mib:.0f}"] * with_memory
        verdict = verdicts.get(one, "fits" if one.fits else "too much")
        table.add_row(one.model, *sizes, predicted, f"{one.measured.latency_ms:.2f}", *memory, verdict)
    show(table)
    print(f"{found.chosen.model} at {found.chosen.image_size_px} px is the widest within the budget ({found.engine})")
