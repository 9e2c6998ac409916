"""Writes the tables and figures of README.md and docs/ from results/ and from the models themselves; `--check` only
compares the tables."""

import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import deployment_tables
import records
import rexnet
import search_tables
import study_tables
from markdown_tables import table
from rexnet.models.cost import measure_cost

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    """The newest recorded training run of each set."""
    newest = {row["title"]: row for row in records.read("classification")}
    rows = [
        [
            row["title"],
            f"`{row['command']}`",
            f"{row['top1_percent']:.2f}",
            f"{row['minutes']:g}",
            f"{row['device']}, {row['processes']} x {row['threads']} threads",
        ]
        for row in newest.values()
    ]
    return table(["data", "command", "top-1, %", "minutes", "machine"], rows)


def training_step() -> str:
    """The newest row of each size of benchmarks/training_step.py."""
    newest = {row["image_size_px"]: row for row in records.read("training_step_cpu")}
    rows = []
    for size_px, row in newest.items():
        for name, ratio in row["images_per_s_ratio"].items():
            memory = row["peak_mib_ratio"][name][1]
            rows.append(
                [
                    f"`{row['model']}`, {size_px} px, batch {row['batch']}",
                    "bfloat16 (`--amp bf16`)" if "bf16" in name else "float32",
                    f"{row['images_per_s'][name][1]:.1f}",
                    f"{row['images_per_s']['timm'][1]:.1f}",
                    f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})",
                    f"{memory:.2f}",
                ]
            )
    header = [
        "training step",
        "ours",
        "ours, images/s",
        "timm's defaults, images/s",
        "ratio (quartiles)",
        "peak memory",
    ]
    return table(header, rows)


def training_input() -> str:
    """The newest row of benchmarks/input.py."""
    row = records.read("input_cpu")[-1]
    rates, before_device = row["images_per_core_second"], row["ratio_to_timm_before_device"]
    rows = [
        [what, f"{rates[ours][1]:.0f}", f"{rates[timm][1]:.0f}", f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})"]
        for what, ours, timm, ratio in (
            ("up to the bytes a GPU gets", "ours_before_device", "timm_before_device", before_device),
            ("everything on one core", "ours", "timm", row["ratio_to_timm"]),
        )
    ]
    return table(["training input", "ours, images/s/core", "timm's loader", "ratio (quartiles)"], rows)


def frozen() -> str:
    """The newest row of each data set of benchmarks/frozen.py."""
    newest = {row["data"].partition(":")[0]: row for row in records.read("frozen_cpu")}
    rows = [
        [
            f"{name}, {row['image_size_px']} px, `{row['model']}`",
            f"{statistics.median(row['slow_epoch_seconds']):.1f}",
            f"{statistics.median(row['epoch_seconds']):.2f}",
            f"{row['ratio']:.1f}",
            f"{row['slow_top1_percent']:.2f} / {row['top1_percent']:.2f}",
        ]
        for name, row in newest.items()
    ]
    return table(
        ["data", "epoch, whole network, s", "epoch on features, s", "ratio", "top-1, % (whole / features)"], rows
    )


def control() -> str:
    """Each network of benchmarks/control.py over its seeds."""
    networks: dict[str, list[dict]] = {}
    for row in records.read("control_cpu"):
        networks.setdefault(row["network"], []).append(row)
    rows = []
    for name, runs in networks.items():
        top1 = [run["top1_percent"] for run in runs]
        spread = f"{min(top1):.2f} to {max(top1):.2f}" if len(top1) > 1 else "one seed"
        cost = f"{runs[0]['macs'] / 1e6:.1f} / {runs[0]['parameters'] / 1e6:.2f}"
        rows.append([name, cost, str(len(runs)), f"{statistics.mean(top1):.2f} ({spread})"])
    return table(["network", "MACs, M / parameters, M", "seeds", "top-1, % (range)"], rows)


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


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "throughput": throughput,
    "training_step": training_step,
    "training_input": training_input,
    "frozen": frozen,
    "control": control,
    "detector_cost": detector_cost,
    "detection": detection,
    "detector_speed": detector_speed,
    "classification": classification,
    "coco_evaluation": coco_evaluation,
    **study_tables.TABLES,
    **search_tables.TABLES,
    **deployment_tables.TABLES,
}


def render(text: str) -> str:
    """`text` with the content between `<!-- table NAME -->` and `<!-- end -->` made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

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
