"""The figure of `rexnet bench`."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rexnet.files import write_figure

if TYPE_CHECKING:  # which draws with this module
    from rexnet.deploy.bench import BenchRow

_COLOURS = {"torch": "#9467bd", "compile": "#8c564b", "onnxruntime": "#1f77b4", "openvino": "#d62728"}


def draw_bench(rows: "Sequence[BenchRow]", path: str | PathLike[str]) -> list[Path]:
    """Images a second, a panel a batch, whiskers from quartile to quartile; to that name with .png and with .svg."""
    from matplotlib.figure import Figure

    batches = sorted({row.batch for row in rows})
    bars = max(sum(row.batch == batch for row in rows) for batch in batches)
    figure = Figure(figsize=(6.4 * len(batches), 1.2 + 0.32 * bars), layout="constrained")
    for panel, batch in zip(figure.subplots(1, len(batches), squeeze=False).flat, batches, strict=True):
        shown = [row for row in rows if row.batch == batch]
        rates = [row.images_per_s for row in shown]
        quickest, slowest = ([1e3 * batch / row.quartiles_ms[end] for row in shown] for end in (0, 1))
        whiskers = [
            [rate - low for rate, low in zip(rates, slowest, strict=True)],
            [high - rate for rate, high in zip(rates, quickest, strict=True)],
        ]
        colours = [_COLOURS[row.backend] for row in shown]
        panel.barh(range(len(shown)), rates, xerr=whiskers, color=colours, alpha=0.85, ecolor="#333333")
        panel.set_yticks(range(len(shown)), [row.label for row in shown], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel("images a second (whiskers: quartiles)")
        panel.set_title(f"batch {batch}", fontsize=10)
        panel.grid(axis="x", alpha=0.25)
    path = Path(path)
    return write_figure(figure, path.with_suffix("") if path.suffix in (".png", ".svg") else path)
