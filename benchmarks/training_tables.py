"""Tables of training runs, training steps and training input."""

import statistics
from collections.abc import Callable

from scipy.stats import t

import records
from markdown_tables import table

PHOTOS = {
    "cifar10-2000": "CIFAR-10, 2,000 images, 32 px",
    "coco-crops": "objects cut from COCO, 167 images of 9 classes",
    "digits": "handwritten digits, 1,438 images",
    "flowers17": "flowers17, 1,067 images of 17 classes",
    "flowers17-10": "flowers17, 10 images a class",
    "shapes": "drawn shapes, 592 images of 4 classes",
}
"""Sets of benchmarks/recipes.py in words."""


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
            f"{row['features_seconds']:.1f} / {native:.1f}" if native else f"{row['features_seconds']:.1f}",
            f"{row['slow_top1_percent']:.2f} / {row['top1_percent']:.2f}",
        ]
        for name, row in newest.items()
        for native in [row.get("native_features_seconds")]
    ]
    computing = "computing features once, s (PyTorch / native engine)"
    titles = [
        "data",
        "epoch, whole network, s",
        "epoch on features, s",
        "ratio",
        computing,
        "top-1, % (whole / features)",
    ]
    return table(titles, rows)


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


def _paired_runs(name: str) -> dict[tuple[str, int], dict[str, dict[int, dict]]]:
    """Return the rows of results/NAME.jsonl without trials of other settings, by set and epochs, contender and seed."""
    groups: dict[tuple[str, int], dict[str, dict[int, dict]]] = {}
    for row in records.read(name):
        if "arguments" not in row:
            runs = groups.setdefault((row["set"], row["epochs"]), {}).setdefault(row["contender"], {})
            runs[row["seed"]] = row
    return groups


def _mean(runs: dict[int, dict], metric: str) -> str:
    return f"{statistics.mean(row[metric] for row in runs.values()):.1f} ({len(runs)})"


def _comparison(name: str, metric: str, unit: str) -> str:
    """Mean metric of each contender over its seeds, the paired difference of `rexnet` from the best of the rivals with
    the most seeds, and the median ratio of its processor time to that of the plain loop."""
    groups = {key: runs for key, runs in _paired_runs(name).items() if "rexnet" in runs and "plain" in runs}
    names = sorted({name for runs in groups.values() for name in runs} - {"rexnet"})
    rows = []
    for (data, epochs), runs in sorted(groups.items()):
        ours = runs.pop("rexnet")
        paired = {name: sorted(ours.keys() & theirs.keys()) for name, theirs in runs.items()}
        best = max(
            runs, key=lambda name: (len(paired[name]), statistics.mean(row[metric] for row in runs[name].values()))
        )
        gains = [ours[seed][metric] - runs[best][seed][metric] for seed in paired[best]]
        took = "processor_minutes"
        ratios = [
            ours[seed][took] / row[took]
            for seed, row in runs["plain"].items()
            if took in row and took in ours.get(seed, ())
        ]
        cells = [_mean(runs[name], metric) if name in runs else "" for name in names]
        time = f"{statistics.median(ratios):.1f}" if ratios else ""
        rows.append([data, str(epochs), _mean(ours, metric), *cells, _mean_gain(gains), time])
    titles = ["data", "epochs", f"`rexnet`, {unit} (seeds)", *(f"`{name}`" for name in names), "gain (95 %)", "time"]
    return table(titles, rows)


def recipes() -> str:
    """Return a row for each set and number of epochs of benchmarks/recipes.py."""
    return _comparison("recipes_cpu", "top1_percent", "%")


def detector_recipes() -> str:
    """Return a row for each set and number of epochs of benchmarks/detector_recipes.py."""
    return _comparison("detector_recipes_cpu", "box_ap", "AP")


def finetune_rates() -> str:
    """Top-1 of each optimizer and learning rate of benchmarks/finetune_rates.py, by seed."""
    runs: dict[tuple[str, float, int], list[float]] = {}
    for row in records.read("finetune_rates_cpu"):
        runs.setdefault((row["optimizer"], row["lr"], row["epochs"]), []).append(row["top1_percent"])
    rows = [
        [f"`{name}`", f"{lr:g}", str(epochs), ", ".join(f"{value:.1f}" for value in top1)]
        for (name, lr, epochs), top1 in runs.items()
    ]
    return table(["optimizer", "peak learning rate", "epochs", "top-1, %, by seed"], rows)


def finetune() -> str:
    """Mean top-1 of each contender and trial of benchmarks/finetune.py over its seeds."""
    runs: dict[tuple[str, int, str, str], list[float]] = {}
    for row in records.read("finetune_cpu"):
        key = row["set"], row["epochs"], row["contender"], row.get("arguments", "")
        runs.setdefault(key, []).append(row["top1_percent"])
    rows = [
        [data, str(epochs), f"`{name}`", f"`{given}`" if given else "", f"{statistics.mean(top1):.1f} ({len(top1)})"]
        for (data, epochs, name, given), top1 in sorted(runs.items())
    ]
    return table(["data", "epochs", "contender", "with", "top-1, % (seeds)"], rows)


def _mean_gain(gains: list[float]) -> str:
    """Return the mean of paired differences with its 95 % interval (Student's t), from three pairs on."""
    mean = statistics.mean(gains)
    if len(gains) < 3:
        return f"{mean:+.1f}"
    half = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return f"{mean:+.1f} ± {half:.1f}"


def photos() -> str:
    """For each set of benchmarks/recipes.py, top-1 of the default recipe beside the plain loop, at the most epochs that
    both have, and the minutes of one core: of wall time in rows that lack those of the processor."""
    rows = {}
    for (data, epochs), runs in sorted(_paired_runs("recipes_cpu").items()):
        ours, plain = runs.get("rexnet", {}), runs.get("plain", {})
        seeds = sorted(ours.keys() & plain.keys())
        if seeds and data in PHOTOS:
            means = [statistics.mean(found[seed]["top1_percent"] for seed in seeds) for found in (ours, plain)]
            took = statistics.median(row.get("processor_minutes", row["minutes"]) for row in ours.values())
            rows[data] = [PHOTOS[data], str(epochs), f"{took:.1f}", *(f"{mean:.1f}" for mean in means)]
    return table(["images", "epochs", "minutes of one core", "`rexnet train`, %", "plain loop, %"], list(rows.values()))


TABLES: dict[str, Callable[[], str]] = {
    "throughput": throughput,
    "classification": classification,
    "training_step": training_step,
    "training_input": training_input,
    "frozen": frozen,
    "control": control,
    "recipes": recipes,
    "detector_recipes": detector_recipes,
    "finetune": finetune,
    "finetune_rates": finetune_rates,
    "photos": photos,
}
