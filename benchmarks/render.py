"""Writes the tables of README.md from results/ and from the models themselves; `--check` only compares."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import records
import rexnet
from rexnet.models.cost import measure_cost

README = Path(__file__).parent.parent / "README.md"
# Paper supplement and official README, ImageNet-1k validation, 224 pixels.
PUBLISHED_TOP1 = {
    "rexnet_090": 77.2,
    "rexnet_100": 77.9,
    "rexnet_110": 78.6,
    "rexnet_120": 79.0,
    "rexnet_130": 79.5,
    "rexnet_140": 79.8,
    "rexnet_150": 80.3,
    "rexnet_200": 81.6,
    "rexnet_220": 81.7,
    "rexnet_300": 82.8,
    "rexnet_lite_100": 76.2,
    "rexnet_lite_130": 77.8,
    "rexnet_lite_150": 78.6,
    "rexnet_lite_200": 80.2,
    "rexnet_plain": 74.8,
}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def models() -> str:
    """Sizes counted on our models, accuracies as published."""
    rows = []
    for name, top1 in PUBLISHED_TOP1.items():
        with torch.device("meta"):
            cost = measure_cost(rexnet.create_model(name))
        rows.append([f"`{name}`", f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", f"{top1}"])
    return table(["network", "parameters, M", "MACs at 224 px, G", "ImageNet top-1, % (published)"], rows)


def throughput() -> str:
    """The newest row of each setting of benchmarks/throughput.py."""
    newest = {}
    for device in ("cpu", "cuda"):
        for row in records.read(f"throughput_{device}"):
            newest[row["what"], row["model"], row["device"], row["precision"], row["compile"], row["batch"]] = row
    rows = [
        [
            row["what"],
            f"`{row['model']}`",
            f"{row['device']}, {row['threads']} threads",
            f"{row['precision']}{', compiled' if row['compile'] else ''}, batch {row['batch']}",
            f"{row['ours_images_per_s'][1]:.1f}",
            f"{row['timm_images_per_s'][1]:.1f}",
            f"{row['ratio'][1]:.2f} ({row['ratio'][0]:.2f} to {row['ratio'][2]:.2f})",
        ]
        for row in newest.values()
    ]
    return table(["", "network", "machine", "setting", "ours, images/s", "timm, images/s", "ratio (quartiles)"], rows)


def classification() -> str:
    """Every recorded training run."""
    rows = [
        [
            row["title"],
            f"`{row['command']}`",
            f"{row['top1_percent']:.2f}",
            f"{row['minutes']:g}",
            f"{row['device']}, {row['processes']} x {row['threads']} threads",
        ]
        for row in records.read("classification")
    ]
    return table(["data", "command", "top-1, %", "minutes", "machine"], rows)


TABLES: dict[str, Callable[[], str]] = {"models": models, "throughput": throughput, "classification": classification}


def render(text: str) -> str:
    """`text` with the content between `<!-- table NAME -->` and `<!-- end -->` made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    old = README.read_text()
    new = render(old)
    if "--check" in sys.argv[1:]:
        sys.exit("README.md differs from results/: run python benchmarks/render.py" if new != old else 0)
    README.write_text(new)


if __name__ == "__main__":
    main()
