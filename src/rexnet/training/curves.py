"""Plots of metrics.jsonl for curves.png and `rexnet report`, and its TensorBoard events."""

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet.errors import MissingPackageError
from rexnet.files import write_whole
from rexnet.training.metrics import curve_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f6fd0", "#d4631a", "#1d8a57", "#a03fb3", "#b58900", "#0d8f9c", "#c93360", "#6b6f7a")
CORES = (None, "#ffffff", "#1c2430")
"""Colours of a thinner line inside a line, for more runs than COLOURS."""
INK, SOFT, GRID = "#1c2430", "#5b6675", "#d9dee5"
_VARIABLES = {colour: f"c{number}" for number, colour in enumerate(COLOURS)} | {
    "#ffffff": "paper",
    INK: "ink",
    SOFT: "soft",
    GRID: "line",
}
"""CSS variables of these colours, for light and dark pages."""
_STYLES = ("-", "-.", ":")
_MAX_POINTS = 400
"""Maximum points per curve; longer curves are thinned, with no visible difference on a screen."""
_MAX_MARKERS = 60


@dataclass(frozen=True, kw_only=True)
class RunRows:
    """Rows of one run's metrics.jsonl, and the best epoch, which is circled in the plot of `best_key`."""

    rows: Sequence[Mapping[str, Any]]
    label: str = ""
    best_epoch: int | None = None
    best_key: str | None = None


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Plot the loss, top-1 accuracy or average precision, and the learning rate over the epochs to a PNG file."""
    # The object interface draws without a display and does not touch the caller's pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = curve_panels({key for row in rows for key in row}) or {"loss": {}}
    for axis, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        plot_panel(axis, lines, [RunRows(rows=rows)])
        axis.set(title=label)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    write_whole(path, image.getbuffer())


def panel_svg(lines: Mapping[str, str], runs: Sequence[RunRows]) -> str:
    """Return a `plot_panel` as an SVG element for a page, in the colours of the page's CSS variables."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasSVG(figure)
    plot_panel(figure.subplots(), lines, runs)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rexnet"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None, "matplotlib always writes one"
    # Drop what only a standalone file needs: its header, and the names of groups and fonts.
    content = svg[svg.index("</defs>") + len("</defs>") :]
    content = re.sub(r' id="[a-z0-9_.]+_\d+"| clip-path="[^"]*"|font-family: [^;"]*;? ?', "", content)
    content = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), content)
    content = re.sub(r"\s+", " ", content)
    return f'<svg {view_box[0]} aria-hidden="true">{content}'


def _variable(colour: str) -> str:
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


def plot_panel(axis: "Axes", lines: Mapping[str, str], runs: Sequence[RunRows]) -> None:
    """Plot the values of `lines`, a mapping of key to label, over the epochs of every run. Each run has a colour;
    training metrics are dashed, further keys dotted. Values that are not finite leave a gap.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    solid = [key for key in lines if not key.startswith("train_")]
    styles: dict[str, Any] = {key: _STYLES[solid.index(key) % len(_STYLES)] if key in solid else "--" for key in lines}
    for number, run in enumerate(runs):
        colour, core = COLOURS[number % len(COLOURS)], CORES[number // len(COLOURS) % len(CORES)]
        for key in lines:
            points = _thin(run, key)
            marker = "." if len(points) <= _MAX_MARKERS else None
            x, y = zip(*points, strict=True) if points else ((), ())
            axis.plot(x, y, styles[key], color=colour, linewidth=4 if core else 1.5, marker=marker)
            if core:
                axis.plot(x, y, styles[key], color=core, linewidth=1.5)
            if key == run.best_key and run.best_epoch is not None:
                ring = [point for point in points if point[0] == run.best_epoch]
                axis.plot(*zip(*ring, strict=True), "o", color=colour, fillstyle="none", markersize=11)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch", color=SOFT)
    axis.tick_params(colors=SOFT, labelcolor=SOFT)
    axis.spines[:].set_color(GRID)
    axis.grid(color=GRID)
    if any(lines.values()) and len(lines) > 1:
        handles = [Line2D([], [], color=INK, linestyle=styles[key], label=label) for key, label in lines.items()]
        axis.legend(handles=handles, labelcolor=INK, framealpha=0, fontsize="small")


def _thin(run: RunRows, key: str) -> list[tuple[float, float]]:
    points = [(row["epoch"], row[key]) for row in run.rows if row.get(key) is not None]
    stride = -(-len(points) // _MAX_POINTS)
    # Count from the end, so that the newest epoch is always included.
    return [
        point
        for number, point in enumerate(points, start=1 - len(points))
        if number % stride == 0 or point[0] == run.best_epoch
    ]


def require_tensorboard() -> Any:
    """Return TensorBoard's writer class. Raise MissingPackageError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError("--tensorboard", "tensorboard", "'rexnet[tensorboard]'") from error
    return SummaryWriter


class EventLog:
    """TensorBoard events in `folder` for a run with `done_epochs` complete epochs. Events of later epochs are purged,
    like their rows in metrics.jsonl, because a run may have been killed between a row and its checkpoint."""

    def __init__(self, folder: str | os.PathLike[str], *, done_epochs: int):
        self._writer = require_tensorboard()(os.fspath(folder), purge_step=done_epochs + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row of metrics.jsonl, with train_loss as train/loss and so on, and flush it to disk."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
