"""One HTML page about one or several runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from rexnet.errors import require
from rexnet.files import check_output_file, write_whole
from rexnet.report.evidence import gather_evidence
from rexnet.report.page import ReportedRun, render_page
from rexnet.training.distributed import choose_device
from rexnet.training.run_record import read_records


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Show training runs as one HTML page that needs no other file and no network."""

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(required)")
    ]
    """Folders of runs, finished or still going; several are compared."""
    output: str | None = None
    """The page; None: report.html in the folder of a single run, in the current folder for several."""
    data: str | None = None
    """Images with labels or boxes to look at, as for rexnet validate; None: the validation split of each run."""
    mistakes: int = 24
    """Most confident mistakes to show of each run of a classifier."""
    batch_size: int = 64
    """Images a step."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    threads: int | None = None
    """CPU threads of PyTorch; None leaves its choice."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("no run given; name the folder of one or more, such as runs/demo")
        require(self.mistakes >= 0, "mistakes", self.mistakes, "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")


def write_report(config: ReportConfig) -> Path:
    """Write the page, whole or not at all, and return its path; nothing else of a run is touched.

    What a run does not have is missing on the page, which says so, as the log does. ValueError, one sentence, for what
    is not a run and for data that does not fit.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    records = read_records(config.runs)
    device = choose_device(config.device)
    alone = records[0].folder.path if len(records) == 1 else Path()
    path = Path(config.output) if config.output else alone / "report.html"
    check_output_file(path)
    runs = [
        ReportedRun(
            record=record,
            evidence=gather_evidence(
                record, data=config.data, mistakes=config.mistakes, batch_size=config.batch_size, device=device
            ),
        )
        for record in records
    ]
    write_whole(path, render_page(runs))
    return path
