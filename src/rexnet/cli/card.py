"""`rexnet card`."""

import shlex
from collections.abc import Sequence

from rexnet.cli.options import read_options


def card(arguments: Sequence[str]) -> None:
    """Write a model folder with a card, for others and for the hub"""
    from rexnet.card.config import CardConfig
    from rexnet.text import printable

    config = read_options("card", CardConfig, arguments)

    from rexnet.card.write import write_card

    made = write_card(config)
    path = printable(made.path)
    facts = f"{made.trained.network}, {len(made.trained.classes):,} classes, {made.bytes / 1e6:,.1f} MB"
    print(f"model folder: {path} ({facts})")
    if config.license is None:
        print("no licence is stated: --license names one")
    if made.address:
        print(f"sent to:      {made.address}")
    predict = "detect predict" if made.trained.is_detector else "predict"
    out = " --out DIR" if made.trained.is_detector else ""
    print(f"use it:       rexnet {predict} {shlex.quote(path)} IMAGE|FOLDER|PATTERN ...{out}")
