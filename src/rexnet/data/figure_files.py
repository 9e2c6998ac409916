"""Figures as files."""

import io
import os
from pathlib import Path
from typing import Any

from rexnet.data.output_files import write_whole

ENDINGS = (".png", ".svg")


def write_figure(figure: Any, stem: str | os.PathLike[str]) -> list[Path]:
    """To STEM.png and STEM.svg; the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    paths = []
    for ending in ENDINGS:
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "rexnet"}):
            no_date = {"Date": None} if ending == ".svg" else None
            figure.savefig(content, format=ending[1:], dpi=130, metadata=no_date)
        path = Path(f"{os.fspath(stem)}{ending}")
        write_whole(path, content.getvalue())
        paths.append(path)
    return paths
