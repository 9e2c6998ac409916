"""Append the results of a training run, and the command that made it, to results/classification.jsonl."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import records


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/record_run.py runs/cifar10-1 --title "CIFAR-10 (JPEG)"`"""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `rexnet train`."""
    title: str
    """Name of the data in the table."""
    note: str = ""


def command(environment: dict[str, Any], data: str) -> str:
    """The command line of the run, with the data's folder by its last name only."""
    _program, *arguments = shlex.split(environment["command"])
    words = [Path(word).name if word == data else word for word in arguments]
    if "--output" in words:
        index = words.index("--output")
        del words[index : index + 2]
    processes = environment["processes"]
    start = ["rexnet"] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes), "-m", "rexnet"]
    return shlex.join([*start, *words])


def row(options: Options) -> dict[str, Any]:
    """One row of the table: command, figures, time spent and where."""
    config, environment, summary = (
        json.loads((options.run / f"{name}.json").read_text()) for name in ("config", "environment", "summary")
    )
    epochs = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    best = summary["best"]
    return {
        "title": options.title,
        "data": summary["data"],
        "model": summary["model"],
        "command": command(environment, config["data"]),
        "epochs": len(epochs),
        "top1_percent": best["val_top1"],
        "top5_percent": best["val_top5"],
        "images": best["val_images"],
        "last_top1_percent": epochs[-1]["val_top1"],
        "minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
        "images_per_second": [epoch["images_per_second"] for epoch in epochs],
        "note": options.note,
        "date": environment["time"][:10],
        "commit": records.short_commit(environment["commit"]),
        "device": records.device_name("cpu") if environment["device"] == "cpu" else environment["device"],
        **{name: environment[name] for name in ("processes", "threads", "python", "torch", "torchvision", "timm")},
    }


def main() -> None:
    print(f"appended to {records.append('classification', row(tyro.cli(Options, description=__doc__)))}")


if __name__ == "__main__":
    main()
