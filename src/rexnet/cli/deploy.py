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
    columns = ("network", "engine", "precision", "batch", "px", "median ms", "quartiles ms", "p95 ms", "images/s")
    table = new_table(*columns, *(["peak MiB"] if config.memory else []))
    for row in measure(config):
        sizes = (row.backend, row.precision, str(row.batch), str(row.image_size_px))
        low, high = row.quartiles_ms
        times = (f"{row.median_ms:.2f}", f"{low:.2f} to {high:.2f}", f"{row.p95_ms:.2f}", f"{row.images_per_s:.1f}")
        memory = [("-" if row.peak_mib is None else f"{row.peak_mib:.0f}")] if config.memory else []
        table.add_row(row.model, *sizes, *times, *memory)
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
    columns = ("network", "px", "parameters M", "MACs M", "predicted ms", "measured ms", "peak MiB", "")
    table = new_table(*columns)
    marks = {found.chosen: "chosen", **{other: "widest at its size" for other in found.others}}
    for one in found.candidates:
        predicted = "-" if one.predicted_ms is None else f"{one.predicted_ms:.2f}"
        peak_mib = "-" if one.measured.peak_mib is None else f"{one.measured.peak_mib:.0f}"
        sizes = (str(one.image_size_px), f"{one.parameters / 1e6:.2f}", f"{one.macs / 1e6:.1f}")
        mark = marks.get(one, "" if one.fits else "too much")
        table.add_row(one.model, *sizes, predicted, f"{one.measured.latency_ms:.2f}", peak_mib, mark)
    show(table)
    print(f"{found.chosen.model} at {found.chosen.image_size_px} px is the widest within the budget ({found.engine})")
