"""One HTML page about runs, filled in from page.html: metrics, curves, and for each run its evidence and settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from rexnet._version import __version__
from rexnet.files import check_output_file, write_whole
from rexnet.report.advice import read_curves
from rexnet.report.config import ReportConfig
from rexnet.report.evidence import MIN_SCORE, Evidence, gather_evidence
from rexnet.report.images import heat_scale
from rexnet.text import plural, printable
from rexnet.training.curves import COLOURS, RunRows, panel_svg
from rexnet.training.distributed import choose_device
from rexnet.training.metrics import METRICS, curve_panels
from rexnet.training.run_record import RunRecord, changed_between, percent, read_records

MAX_MATRIX_CLASSES = 30
MAX_CLASS_ROWS = 1000
_MAX_EPOCH_ROWS = 300
# Allow nothing to be loaded or run, whatever the names in the data contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """A run, and the predictions of its network."""

    record: RunRecord
    evidence: Evidence

    def facts(self) -> dict[str, str]:
        """Return the facts by heading, "-" for those missing from the run."""
        record, evidence = self.record, self.evidence
        best, spent = record.best, record.time_spent()
        speed, network = record.images_per_second, record.options()["network"]
        return {
            f"best {record.metric.label}": record.metric.text(best[record.metric.key]) if best else "-",
            "at epoch": str(best["epoch"]) if best else "-",
            "network": f"{network['model']} x{network['width']:g}" if network.get("width") else network["model"],
            "parameters": f"{evidence.parameters / 1e6:.2f} M" if evidence.parameters else "-",
            "MACs per image": f"{evidence.macs / 1e9:.3f} G" if evidence.macs else "-",
            "training images/s": f"{speed:,.0f}" if speed else "-",
            "time of whole epochs": duration(spent.total) if record.rows else "-",
            "waiting for data": percent(spent.waiting_fraction) if record.rows else "-",
        }

    def advice(self) -> str:
        """Return what the curves show, and what to try next."""
        return read_curves(self.record.rows, self.record.metric)

    def epochs(self) -> tuple[str, list[str], list[list[str]]]:
        """Return caption, header and rows of the table of epochs, thinned if there are many."""
        rows = self.record.rows
        stride = -(-len(rows) // _MAX_EPOCH_ROWS)
        names = list(dict.fromkeys(name for row in rows for name in row))
        shown = [row for row in rows if row["epoch"] % stride == 0 or row is rows[-1]]
        cells = [[_number(row.get(name)) for name in names] for row in shown]
        caption = "One row per epoch" if stride == 1 else f"Every {stride}th epoch; metrics.jsonl has all {len(rows)}"
        return caption, [name.replace("_", " ") for name in names], cells

    def curves(self) -> RunRows:
        best = self.record.best
        return RunRows(
            rows=self.record.rows,
            label=self.record.label,
            best_epoch=best["epoch"] if best else None,
            best_key=self.record.metric.key,
        )


def write_report(config: ReportConfig) -> Path:
    """Write the page atomically and return its path; nothing else in a run is changed. The page and the log report
    anything that is missing from a run. Raise ValueError for a folder that is not a run, and for data that does not
    fit.
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


def render_page(runs: Sequence[ReportedRun]) -> bytes:
    """Return the HTML document, with embedded style and images, as UTF-8."""
    environment = Environment(
        loader=PackageLoader("rexnet.report", "."),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        finalize=_one_line,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "duration": duration, "value": _value, "plural": plural}
    page = environment.get_template("page.html").render(
        runs=runs,
        title="Report: " + ", ".join(run.record.label for run in runs),
        style=files("rexnet.report").joinpath("page.css").read_text(encoding="utf-8"),
        policy=_POLICY,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        panels=_panels(runs),
        metrics=METRICS,
        changed=changed_between([run.record for run in runs]),
        colours=len(COLOURS),
        max_matrix_classes=MAX_MATRIX_CLASSES,
        max_class_rows=MAX_CLASS_ROWS,
        min_score=MIN_SCORE,
        heat_scale=heat_scale(),
    )
    # File names may contain undecodable bytes.
    return page.encode("utf-8", "backslashreplace")


def _panels(runs: Sequence[ReportedRun]) -> list[dict[str, str]]:
    """Return the title, SVG and description for screen readers of each plot."""
    keys = {key for run in runs for row in run.record.rows for key in row}
    panels = curve_panels(keys, goals=[run.record.metric.name for run in runs])
    if "images_per_second" in keys:
        panels["training speed, images/s"] = {"images_per_second": ""}
    shown = [run.curves() for run in runs]
    found = []
    for title, lines in panels.items():
        svg = panel_svg(lines, shown)
        found.append({"title": title[0].upper() + title[1:], "svg": svg, "description": _describe(lines, shown)})
    return found


def _describe(lines: dict[str, str], runs: Sequence[RunRows]) -> str:
    parts = []
    for run in runs:
        for key, label in lines.items():
            if values := [row[key] for row in run.rows if row.get(key) is not None]:
                name = ", ".join(part for part in (run.label if len(runs) > 1 else "", label) if part)
                parts.append(f"{name} from {values[0]:.4g} to {values[-1]:.4g}".strip())
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _one_line(value: object) -> object:
    """Escape unprintable characters in text for the page; markup is unchanged."""
    return value if hasattr(value, "__html__") else printable(str(value))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
