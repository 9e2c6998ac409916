"""metrics.jsonl as a picture."""

import io
from pathlib import Path
from typing import Any

from rexnet.data.output_files import write_whole


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Loss, top-1 and learning rate over epochs, as a PNG. `rows`: those of metrics.jsonl."""
    # The object interface draws without a display and leaves the caller's pyplot alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    epochs = [row["epoch"] for row in rows]
    panels = {
        "loss": {"train": "train_loss", "held back": "val_loss"},
        "top-1 (%)": {"train": "train_top1", "held back": "val_top1"},
        "learning rate": {"": "lr"},
    }
    for axis, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, key in lines.items():
            if rows and key in rows[0]:
                axis.plot(epochs, [row.get(key) for row in rows], marker=".", label=name)
        axis.set(xlabel="epoch", title=label)
        axis.grid(alpha=0.3)
        if len(lines) > 1 and axis.lines:
            axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(path, picture.getbuffer())
