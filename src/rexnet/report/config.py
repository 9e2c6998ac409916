"""Options of `rexnet report`."""

from dataclasses import dataclass
from typing import Annotated

from rexnet.data.datasets import open_dataset
from rexnet.errors import require_at_least
from rexnet.files import check_output_file
from rexnet.options import Device, Threads, positional
from rexnet.training.run_record import read_records


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write a self-contained HTML page about training runs."""

    runs: Annotated[tuple[str, ...], positional("RUN ...")]
    """Run folders, finished or still running; several are compared."""
    output: str | None = None
    """File to write; None: report.html in the run folder or, for several runs, in the current folder."""
    data: str | None = None
    """Images with labels or boxes to show, as for rexnet validate; None: the validation split of each run."""
    mistakes: int = 24
    """Number of most confident mistakes to show for each run of a classifier."""
    batch_size: int = 64
    """Images per step."""
    device: Device = "auto"
    threads: Threads = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("no run given; name one or more run folders, such as runs/demo")
        require_at_least(self, 0, "mistakes")
        require_at_least(self, 1, "batch_size", "threads")

    def check(self) -> None:
        """Raise ValueError for a folder without a run, and for data or an output that cannot be used."""
        read_records(self.runs)
        check_output_file(self.output)
        if self.data is not None:
            open_dataset(self.data)
