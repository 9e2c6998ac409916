"""Commands for datasets."""

import shlex
import sys
from collections.abc import Sequence

from rexnet.cli.options import read_options
from rexnet.cli.tables import first_of, new_table, print_list, show, spread
from rexnet.text import quantity


def check(arguments: Sequence[str]) -> None:
    """Find unreadable, tiny, duplicate and misplaced images and unusable boxes"""
    from rexnet.data.checks.images import CheckConfig, check
    from rexnet.files import write_whole

    config = read_options("data check", CheckConfig, arguments)
    report = check(config)
    if config.output is not None:
        write_whole(config.output, report.to_json())
    table = new_table("split", report.counted, "classes", "smallest", "largest", "ratio")
    for split, by_class in report.classes.items():
        ends = [f"{report.balance[split].get(key, 0):,}" for key in ("smallest", "largest", "ratio")]
        table.add_row(split or "(none)", f"{sum(by_class.values()):,}", f"{len(by_class):,}", *ends)
    show(table)
    table = new_table("problem", "found")
    for problem, found in report.problems().items():
        table.add_row(problem, f"{len(found):,}")
    show(table)
    for problem, found in report.problems().items():
        print_list(problem, found, rest="; --output FILE writes them all")
    for line in report.notes:
        print(line)
    sizes = report.size_px.get("shorter_side", {})
    print(quantity(report.images, "image") + (f", shorter side {spread(sizes)} px" if sizes else ""))
    if not report.clean:
        sys.exit(1)


def shard(arguments: Sequence[str]) -> None:
    """Pack images into tars (WebDataset format)"""
    from rexnet.data.datasets.shard_writing import ShardConfig, write_shards

    config = read_options("data shard", ShardConfig, arguments)
    written = write_shards(config)
    for side, images in written.images.items():
        shards = written.shards[side]
        print(f"{side}: {quantity(images, 'image')} in {quantity(shards, 'tar')}")
    if written.skipped:
        print(f"skipped: {first_of(written.skipped)}")
    print(f"use it: rexnet train {shlex.quote(str(config.output))}")
