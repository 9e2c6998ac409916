"""metrics.jsonl as a picture."""

import io
from pathlib import Path
from typing import Any

from rexnet.files import write_whole


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Loss, top-1 or average precision, and learning rate over epochs, as a PNG. `rows`: those of metrics.jsonl."""
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
        "AP on held-back images (%)": {
            "boxes": "val_box_ap",
            "masks": "val_mask_ap",
            "boxes at IoU 0.5": "val_box_ap50",
        },
        "learning rate": {"": "lr"},
    }
    have = {key for row in rows for key in row}
    panels = {label: lines for label, lines in panels.items() if not rows or have & set(lines.values())}
    for axis, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, key in lines.items():
            if key in have:
                axis.plot(epochs, [row.get(key) for row in rows], marker=".", label=name)
        axis.set(xlabel="epoch", title=label)
        axis.grid(alpha=0.3)
        if len(lines) > 1 and axis.lines:
            axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_whole(path, picture.getbuffer())
