"""Rows of results/: one JSON object a line, appended, each with what is needed to measure it again."""

import json
import os
import shlex
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rexnet.engines.measuring import processor_name
from rexnet.training.distributed import World
from rexnet.training.run_folder import describe_environment

RESULTS = Path(__file__).parent.parent / "results"


def device_name(device: str) -> str:
    """Return the processor's or accelerator's product name, as the system reports it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return processor_name()


def short_commit(commit: str | None) -> str:
    """A commit as `describe_environment` gives it, with 7 characters of hash and with "+changes" if it has that."""
    digits, changes, _ = (commit or "").partition("+changes")
    return digits[:7] + changes


@cache
def commit() -> str:
    """Return the checkout's commit when first asked, with "+changes" if more than results/ differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", ":/", ":/!results"], capture_output=True, check=True)
    return head.stdout.strip() + ("+changes" if changed.stdout else "")


def start() -> None:
    """Note the commit before a recorder measures, and refuse a checkout with changes, whose rows nobody can repeat.

    Long runs belong in a second checkout, where nobody edits. `REXNET_CHANGES=1` records "+changes" nevertheless.
    """
    if commit().endswith("+changes") and not os.environ.get("REXNET_CHANGES"):
        sys.exit("the checkout has changes, so a row could not be repeated: commit them, or set REXNET_CHANGES=1")
    # Processes of this run start later and belong to it.
    os.environ["REXNET_CHANGES"] = "1"


def without_folder(word: str) -> str:
    return Path(word).name if Path(word).is_absolute() else word


def provenance(device: str) -> dict[str, Any]:
    """Return date, commit, command, device, threads and versions for a row measured by the running script."""
    environment = describe_environment(World(device=torch.device(device)))
    return {
        "date": environment["time"][:10],
        "commit": commit(),
        # Where a file lies on this machine helps nobody.
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(without_folder, sys.argv[1:])]),
        "device": device_name(device),
        **{name: environment[name] for name in ("threads", "python", "torch", "torchvision", "timm")},
    }


def quartiles(values: list[float], digits: int = 3) -> list[float]:
    return [round(value, digits) for value in statistics.quantiles(values, n=4)]


def append(name: str, row: dict[str, Any]) -> Path:
    """Append a row to results/NAME.jsonl."""
    path = RESULTS / f"{name}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return path


def read(name: str) -> list[dict[str, Any]]:
    """Return all rows of results/NAME.jsonl, oldest first; none if there is no such file."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
