"""metrics.jsonl as a picture."""

import io
from pathlib import Path
from typing import Any

from rexnet.files import write_whole
from rexnet.training.metrics import curve_panels


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Loss, top-1 or average precision, and learning rate over epochs, as a PNG. `rows`: those of metrics.jsonl."""
    # The object interface draws without a display and leaves the caller's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    epochs = [row["epoch"] for row in rows]
    panels = curve_panels({key for row in rows for key in row}) or {"loss": {}}
    for axis, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for key, name in lines.items():
            axis.plot(epochs, [row.get(key) for row in rows], marker=".", label=name)
        axis.set(xlabel="epoch", title=label)
        axis.grid(alpha=0.3)
        if len(lines) > 1 and axis.lines:
            axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(path, picture.getbuffer())
