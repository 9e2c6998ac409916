"""The page of a report: what the runs reached, their curves, and for each run its evidence and settings."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from rexnet._version import __version__
from rexnet.report.evidence import Evidence
from rexnet.report.line_chart import Line, line_chart
from rexnet.report.markup import Markup, join, tag
from rexnet.report.sections import duration, evidence_sections, table, time_section
from rexnet.text import plural
from rexnet.training.metrics import curve_panels
from rexnet.training.run_record import RunRecord, changed_between, percent

_COLOURS = 8
"""In page.css; further runs begin again at the first, with a core in their lines."""
_CORES = 2
"""In page.css, besides none."""
_MAX_EPOCH_ROWS = 300
# Nothing may be fetched and nothing run, whatever a name in the data might hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

Pairs = Sequence[tuple[RunRecord, Evidence]]


def render_page(pairs: Pairs) -> str:
    """The whole HTML document, with style and pictures inside."""
    title = "Report: " + ", ".join(record.label for record, _ in pairs)
    style = Markup(files("rexnet.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", style),
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = f"Made by rexnet {__version__}, {made}. Everything on this page is in this one file."
    body = tag("body", tag("main", *_content(title, pairs)), tag("footer", footer))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _content(title: str, pairs: Pairs) -> list[Markup]:
    parts = [tag("h1", title)]
    if len(pairs) == 1:
        record, evidence = pairs[0]
        sections = _run_sections(record, evidence, "h2")
        return [*parts, _status(record), *_notes(evidence), _headline(record, evidence), _curves(pairs), *sections]
    parts += [_comparison(pairs), _differences(pairs), _curves(pairs)]
    for number, (record, evidence) in enumerate(pairs):
        summary = tag("summary", _swatch(number), tag("h2", record.label))
        inside = [_status(record), *_notes(evidence), *_run_sections(record, evidence, "h3")]
        parts.append(tag("details", summary, *inside, class_="run"))
    return parts


def _run_sections(record: RunRecord, evidence: Evidence, heading: str) -> list[Markup]:
    return [
        *evidence_sections(evidence, heading),
        time_section(record, heading),
        _epochs(record, heading),
        _settings(record, heading),
        _machine(record, heading),
    ]


def _status(record: RunRecord) -> Markup:
    planned = record.options()["schedule"]["epochs"]
    count = f"{len(record.rows)} of {planned} {plural(planned, 'epoch')}"
    done = f"Finished after {count}." if record.finished else f"{count} so far."
    data = f"{record.data.description}. " if record.data else ""
    return tag("p", data + done, class_="lead")


def _notes(evidence: Evidence) -> list[Markup]:
    return [tag("p", note, class_="note") for note in evidence.notes]


def _facts(record: RunRecord, evidence: Evidence) -> dict[str, str]:
    """Heading -> figure, "-" for what the run does not have."""
    best, cost, spent = record.best, evidence.cost, record.time_spent()
    speed, network = record.images_per_second, record.options()["network"]
    return {
        f"best {record.metric.label}": record.metric.text(best[record.metric.key]) if best else "-",
        "at epoch": str(best["epoch"]) if best else "-",
        "network": f"{network['model']} x{network['width']:g}" if network.get("width") else network["model"],
        "parameters": f"{cost.parameters / 1e6:.2f} M" if cost else "-",
        "MACs an image": f"{cost.macs / 1e9:.3f} G" if cost else "-",
        "training images/s": f"{speed:,.0f}" if speed else "-",
        "whole epochs took": duration(spent.total) if record.rows else "-",
        "waiting for data": percent(spent.waiting_share) if record.rows else "-",
    }


def _headline(record: RunRecord, evidence: Evidence) -> Markup:
    facts = _facts(record, evidence)
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()), class_="facts")


def _look(number: int) -> tuple[int, int]:
    """(colour, core) of a run."""
    return number % _COLOURS, number // _COLOURS % (_CORES + 1)


def _swatch(number: int) -> Markup:
    colour, core = _look(number)
    return tag("span", class_=f"swatch colour{colour} core{core}" if core else f"swatch colour{colour}")


def _comparison(pairs: Pairs) -> Markup:
    facts = [_facts(record, evidence) for record, evidence in pairs]
    heads = [join(_swatch(number), record.label) for number, (record, _) in enumerate(pairs)]
    rows = [[head, *row.values()] for head, row in zip(heads, facts, strict=True)]
    names, goals = list(facts[0]), [record.metric.label for record, _ in pairs]
    if len(set(goals)) > 1:
        names[0] = "best figure"
        for row, goal in zip(rows, goals, strict=True):
            row[1] = f"{row[1]} {goal}"
    caption = (
        f"The epoch with the highest {' or '.join(dict.fromkeys(goals))} on the held-back images, and what it took"
    )
    return tag("section", tag("h2", "What they reached"), table(["run", *names], rows, caption=caption))


def _differences(pairs: Pairs) -> Markup:
    changed = changed_between([record for record, _ in pairs])
    if not changed:
        content = tag("p", "The runs have the same settings.")
    else:
        heads = ["option", *(join(_swatch(number), record.label) for number, (record, _) in enumerate(pairs))]
        rows = [[tag("code", _option(name)), *map(_value, values)] for name, values in changed.items()]
        words = range(1, len(heads))
        content = table(heads, rows, caption="Options that are not the same in all runs", words=words)
    return tag("section", tag("h2", "What differs"), content)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curves(pairs: Pairs) -> Markup:
    charts = []
    keys = {key for record, _ in pairs for row in record.rows for key in row}
    panels = curve_panels(keys, goals=[record.metric.name for record, _ in pairs])
    for title, named in {**panels, "training speed, images/s": {"images_per_second": ""}}.items():
        lines = []
        for number, (record, _) in enumerate(pairs):
            for key, side in named.items():
                points = tuple((row["epoch"], row[key]) for row in record.rows if key in row)
                label = ", ".join(part for part in (record.label if len(pairs) > 1 else "", side) if part) or title
                marked = record.best["epoch"] if record.best and key == record.metric.key else None
                dashed = side == "training"
                colour, core = _look(number)
                lines.append(Line(label=label, points=points, colour=colour, core=core, dashed=dashed, marked=marked))
        ends = [
            f"{line.label} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in lines if line.points
        ]
        charts.append(line_chart(title[0].upper() + title[1:], lines, description="; ".join(ends)))
    if not any(charts):
        return tag("section", tag("h2", "Curves"), tag("p", "No epoch has ended yet."))
    runs = [tag("span", _swatch(number), record.label) for number, (record, _) in enumerate(pairs) if len(pairs) > 1]
    styles = [
        tag("span", tag("span", class_="stroke"), "held-back images"),
        tag("span", tag("span", class_="stroke dashed"), "training images, augmented"),
        tag("span", tag("span", class_="ring"), "best epoch"),
    ]
    legend = tag("p", *runs, *styles, class_="legend")
    return tag("section", tag("h2", "Curves"), legend, tag("div", *charts, class_="charts"))


def _epochs(record: RunRecord, heading: str) -> Markup:
    rows = record.rows
    if not rows:
        return Markup("")
    stride = -(-len(rows) // _MAX_EPOCH_ROWS)
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [row for row in rows if row["epoch"] % stride == 0 or row is rows[-1]]
    cells = [[_figure(row.get(name)) for name in names] for row in shown]
    caption = "One row an epoch" if stride == 1 else f"Every {stride}th epoch; metrics.jsonl has all {len(rows)}"
    heads = [name.replace("_", " ") for name in names]
    return tag("details", tag("summary", tag(heading, "Figures of the epochs")), table(heads, cells, caption=caption))


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _settings(record: RunRecord, heading: str) -> Markup:
    groups = [
        table(
            ["option", "value"],
            [[tag("code", _option(name)), _value(value)] for name, value in options.items()],
            caption=group,
            words=[1],
        )
        for group, options in record.options().items()
    ]
    summary = tag("summary", tag(heading, "Settings"))
    return tag("details", summary, tag("div", *groups, class_="columns"))


def _machine(record: RunRecord, heading: str) -> Markup:
    environment = record.environment
    facts = {name: value for name, value in environment.items() if name != "command"}
    command = tag("pre", environment["command"], tabindex=0) if "command" in environment else None
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    content = table(["what", "is"], rows, caption="As the run began", words=[1])
    return tag("section", tag(heading, "Hardware and versions"), command, content)
