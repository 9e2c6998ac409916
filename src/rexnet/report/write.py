"""One HTML page about one or several runs."""

from pathlib import Path

import torch

from rexnet.files import check_output_file, write_whole
from rexnet.report.config import ReportConfig
from rexnet.report.evidence import gather_evidence
from rexnet.report.page import ReportedRun, render_page
from rexnet.training.distributed import choose_device
from rexnet.training.run_record import read_records


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
