"""The tables about the search for channels, for benchmarks/render.py."""

from collections.abc import Callable
from typing import Any

import records
from markdown_tables import table_if_any
from rexnet.search.recipes import SEARCHES


def _newest() -> dict[str, dict[str, Any]]:
    """The newest row of each data set and constraint of benchmarks/record_search.py."""
    rows = records.read("search")
    return {f"{row['title']}, ({row['constraint']})" if row["constraint"] else row["title"]: row for row in rows}


def search_groups() -> str:
    """Each group as measured, and the paper's Table 3 beside it."""
    rows = []
    for name, row in _newest().items():
        published = SEARCHES[row["constraint"]].groups if row["constraint"] else {}
        for group in row["groups"]:
            theirs = published.get(group["name"])
            rows.append(
                [
                    f"{name}, {group['name']} 10 % ({group['size']} of {row['candidates']})",
                    "{:.2f} ± {:.2f}".format(*group["accuracy"]),
                    "-".join(f"{mean:.0f}" for mean, _ in group["channels"]),
                    f"{100 * group['line'][2]:.1f}",
                    f"{100 * group['residual'][0]:.1f} ± {100 * group['residual'][1]:.1f}",
                    f"{theirs.top1:.1f} ± {theirs.top1_spread:.1f}" if theirs else "",
                ]
            )
    header = [
        "search",
        "top-1, %",
        "mean channels",
        "mean off a line, %",
        "single ones off a line, %",
        "published top-1 (CIFAR-100), %",
    ]
    return table_if_any(header, rows)


def search_predictors() -> str:
    """Early predictors against the final accuracy."""
    rows = [
        [name, what, f"{value:.2f}", f"{low:.2f} to {high:.2f}"]
        for name, row in _newest().items()
        for what, (value, low, high) in row["predictors"].items()
    ]
    return table_if_any(["search", "known before", "rank correlation", "95 % interval"], rows)


def search_speed() -> str:
    """The newest row of benchmarks/search_speed.py."""
    rows = [
        [
            f"{row['what']}; {row['device']}, {row['cores']} cores",
            " / ".join(f"{value:.0f}" for value in row["search_per_hour"]),
            " / ".join(f"{value:.0f}" for value in row["plain_per_hour"]),
            " / ".join(f"{value:.2f}" for value in row["ratio"]),
        ]
        for row in records.read("search_speed_cpu")[-1:]
    ]
    header = ["", "rexnet search run, candidates/h", "one by one, candidates/h", "ratio, by round"]
    return table_if_any(header, rows)


TABLES: dict[str, Callable[[], str]] = {
    "search_groups": search_groups,
    "search_predictors": search_predictors,
    "search_speed": search_speed,
}
"""Tables of docs/search.md."""
