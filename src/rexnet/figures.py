"""Figures in files: a PNG to look at and an SVG to print."""

import io
import os
from pathlib import Path
from typing import Any

from rexnet.files import write_whole

FIGURE_ENDINGS = (".png", ".svg")


def write_figure(figure: Any, stem: str | os.PathLike[str]) -> list[Path]:
    """Write a figure to STEM.png and STEM.svg; the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    paths = []
    for ending in FIGURE_ENDINGS:
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "rexnet"}):
            no_date = {"Date": None} if ending == ".svg" else None
            figure.savefig(content, format=ending[1:], dpi=130, metadata=no_date)
        path = Path(f"{os.fspath(stem)}{ending}")
        write_whole(path, content.getvalue())
        paths.append(path)
    return paths
