"""Write the tables and figures of README.md and docs/ from results/ and from the models themselves; `--check` only
compares the tables."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import deployment_tables
import paper_tables
import published
import records
import rexnet
import search_tables
import study_tables
import training_tables
from markdown_tables import table
from rexnet.cli import GROUPS
from rexnet.models.cost import measure_cost

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PUBLISHED_TOP1 = {
    name: row[0] for name, row in (published.FAMILY | published.LITE).items() if name.startswith("rexnet")
}


def headline() -> str:
    """Three rows for the README: a published accuracy, a training, a speed."""
    with torch.device("meta"):
        cost = measure_cost(rexnet.create_model("rexnet_100"))
    trained = [row for row in records.read("classification") if row["title"].startswith("CIFAR-10")][-1]
    measured = deployment_tables.newest_networks()
    ours, theirs = (
        deployment_tables.fastest(measured, one, "bf16", 1) for one in ("rexnet_100", "timm/efficientnet_b0")
    )
    assert ours and theirs
    size = f"{cost.parameters / 1e6:.2f} M parameters, {cost.macs / 1e9:.3f} G MACs"
    faster = f"{ours['median_ms']:.1f} ms; EfficientNet-B0, {theirs['backend']}, {theirs['median_ms']:.1f} ms"
    rows = [
        [f"`rexnet_100` on ImageNet ({size})", f"{PUBLISHED_TOP1['rexnet_100']} % (published)"],
        [
            f"CIFAR-10 from scratch by `{trained['command']}`, {trained['threads']} threads, {trained['device']}",
            f"{trained['top1_percent']:.2f} %",
        ],
        [
            f"one image of 224 px through `rexnet_100` in bf16, {ours['backend']} engine, {ours['threads']} threads, "
            f"{ours['device']}",
            faster,
        ],
    ]
    return table(["headline", ""], rows)


def models() -> str:
    """Sizes counted on our models, accuracies as published."""
    rows = []
    for name, top1 in PUBLISHED_TOP1.items():
        with torch.device("meta"):
            cost = measure_cost(rexnet.create_model(name))
        rows.append([f"`{name}`", f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", f"{top1}"])
    return table(["network", "parameters, M", "MACs at 224 px, G", "ImageNet top-1, % (published)"], rows)


def detector_cost() -> str:
    """The newest row of each detector of benchmarks/detector_cost.py."""
    newest = {(row["kind"], row["backbone"]): row for row in records.read("detector_cost")}
    rows = [
        [
            row["kind"],
            f"`{row['backbone']}`",
            f"{row['parameters_m']} / {row['parameters'] / 1e6:.2f}",
            f"{row['macs_g']} / {row['macs'] / 1e9:.{3 if row['kind'] == 'ssdlite' else 1}f}",
            f"{row['macs_difference_percent']:+.2f}",
            row["note"],
        ]
        for row in newest.values()
    ]
    sizes = "parameters, M (published / ours)", "MACs, G (published / ours)", "MACs, %"
    return table(["detector", "backbone", *sizes, "form that fits, or deviation"], rows)


def detection() -> str:
    """The newest row of each task and detector of benchmarks/detection.py."""
    newest = {(row["what"], row["detector"]): row for row in records.read("detection")}
    tasks = {"overfit": "16 photographs of COCO, {objects} objects", "shapes": "shapes, {train} images to train on"}
    rows = [
        [
            f"{row['detector']}, `{row['backbone']}`",
            f"{tasks[row['what']].format(**row)}; {row['size_px']} px, {row['epochs']} epochs",
            f"{row['box_ap50']:.1f} / {row['box_ap']:.1f}",
            f"{row['mask_ap50']:.1f} / {row['mask_ap']:.1f}" if "mask_ap" in row else "",
            f"{row['minutes']:.0f} ({row['threads']})",
        ]
        for row in newest.values()
    ]
    return table(["detector", "on", "boxes, AP50 / AP, %", "masks, AP50 / AP, %", "minutes (threads)"], rows)


def detector_speed() -> str:
    """The newest row of each contender of benchmarks/detector_speed.py."""
    newest = {(row["what"], row["detector"]): row for row in records.read("detector_speed_cpu")}
    rows = [
        [
            f"training, batch {row['batch']}" if row["what"] == "training" else "detecting, batch 1",
            f"{row['detector']} {('`' + row['backbone'] + '`') if row['backbone'] else ''}".strip(),
            f"{row['seconds'][1]:.2f}",
            f"{row['times_faster'][1]:.2f} ({row['times_faster'][0]:.2f} to {row['times_faster'][2]:.2f})",
        ]
        for row in newest.values()
    ]
    baselines = "than torchvision's loop, than its ResNet50-FPN"
    return table(["", "detector", "seconds", f"times faster {baselines} (quartiles)"], rows)


def coco_evaluation() -> str:
    """The newest row of each kind of benchmarks/coco_evaluation.py."""
    rows = [
        [
            f"{row['what']}, {row['images']:,} images",
            f"{row['objects']:,} / {row['detections']:,}",
            f"{row['seconds']['ours'][1]:.2f}",
            f"{row['seconds']['pycocotools'][1]:.1f}",
            f"{row['ratio'][1]:.0f} ({row['ratio'][0]:.0f} to {row['ratio'][2]:.0f})",
            f"{row['largest_difference_percent']:g}",
        ]
        for row in {row["what"]: row for row in records.read("coco_evaluation_cpu")}.values()
    ]
    header = ["", "objects / detections", "ours, s", "pycocotools, s", "ratio (quartiles)", "largest difference, %"]
    return table(header, rows)


def cli_help() -> str:
    """The newest row of benchmarks/cli_help.py, a row a group of commands."""
    seconds = records.read("cli_help_cpu")[-1]["seconds"]
    rows = [
        [
            title,
            ", ".join(f"`{name}` {seconds[full]:.2f}" for name in commands if (full := f"rexnet {name}") in seconds),
        ]
        for title, commands in GROUPS.items()
    ]
    return table(["group", "seconds of `rexnet COMMAND --help`"], [["all", f"`rexnet` {seconds['rexnet']:.2f}"], *rows])


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "models": models,
    "detector_cost": detector_cost,
    "detection": detection,
    "detector_speed": detector_speed,
    "coco_evaluation": coco_evaluation,
    "cli_help": cli_help,
    **training_tables.TABLES,
    **study_tables.TABLES,
    **search_tables.TABLES,
    **deployment_tables.TABLES,
    **paper_tables.TABLES,
}


# Files of results/ whose newest row dates a table; tables that are not here count and measure nothing.
SOURCES = {
    "classification": "classification",
    "training_step": "training_step_cpu",
    "training_input": "input_cpu",
    "frozen": "frozen_cpu",
    "throughput": "throughput_cuda",
    "control": "control_cpu",
    "recipes": "recipes_cpu",
    "finetune": "finetune_cpu",
    "finetune_rates": "finetune_rates_cpu",
    "detector_recipes": "detector_recipes_cpu",
    "photos": "recipes_cpu",
    "deployment": "deployment_cpu",
    "peers": "peers_cpu",
    "peer_ratios": "peers_cpu",
    "image_folder": "image_folder_cpu",
    "quantization": "quantization_cpu",
    "serve_load": "serve_load_cpu",
    "detection": "detection",
    "detector_speed": "detector_speed_cpu",
    "coco_evaluation": "coco_evaluation_cpu",
    "detector_cost": "detector_cost",
    "rank_fit": "rank_protocol_fit",
    "depth": "depth",
    "spectra": "spectra",
    "factors": "factors",
    "factor_layouts": "factor_layouts",
    "rank_speed": "rank_study_cpu",
    "rank_time": "rank",
    "rewritten": "rewritten",
    "principles": "principles",
    "search_groups": "search",
    "search_predictors": "search",
    "search_speed": "search_speed_cpu",
    "cli_help": "cli_help_cpu",
    "paper_detectors": "detector_cost",
    "native_cases": "cases_cpu",
    "native_int8": "int8_cpu",
    "native_peak": "native_peak_cpu",
    "native_accuracy": "native_accuracy_cpu",
}


def dated(name: str) -> str:
    """Return the date, machine and file of the newest row behind the table `name`, as a line below it."""
    if name not in SOURCES:
        return ""
    row = records.read(SOURCES[name])[-1]
    return f"\n\n{row['date']}, {row['device']}, `results/{SOURCES[name]}.jsonl`"


def render(text: str) -> str:
    """Return `text` with the content between `<!-- table NAME -->` and `<!-- end -->` rendered again."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}{dated(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    stale = {page: new for page in PAGES if (new := render(old := page.read_text())) != old}
    if "--check" in sys.argv[1:]:
        names = ", ".join(page.name for page in stale)
        sys.exit(f"{names} differ from results/: run python benchmarks/render.py" if stale else 0)
    for page, text in stale.items():
        page.write_text(text)
    deployment_tables.draw_figures(ROOT / "docs" / "images")


if __name__ == "__main__":
    main()
