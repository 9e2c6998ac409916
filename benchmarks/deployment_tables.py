"""Tables and figures of benchmarks/deployment.py, benchmarks/image_folder.py, benchmarks/quantization.py and
benchmarks/serve_load.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import records
from markdown_tables import table_if_any
from published_networks import PUBLISHED_NETWORKS
from rexnet.figures import write_figure

Row = dict[str, Any]
MARKERS = {"ReXNet": "o", "ReXNet-lite": "s", "EfficientNet": "^", "EfficientNet-lite": "v"}
COLOURS = {
    "ReXNet": "#d62728",
    "ReXNet-lite": "#ff7f0e",
    "EfficientNet": "#1f77b4",
    "EfficientNet-lite": "#17becf",
    "MobileNetV3": "#2ca02c",
    "MobileNetV4": "#9467bd",
}


def newest(name: str) -> dict[tuple[str, str, str, int], Row]:
    """Return the last row of each (network, engine, precision, batch)."""
    return {(row["model"], row["backend"], row["precision"], row["batch"]): row for row in records.read(name)}


def newest_networks() -> dict[tuple[str, str, str, int], Row]:
    """Return the last rows of the machine that measured last: milliseconds of two machines do not compare."""
    rows = newest("deployment_cpu")
    device = list(records.read("deployment_cpu"))[-1]["device"]
    return {key: row for key, row in rows.items() if row["device"] == device}


def networks() -> str:
    """Each network in its fastest engine, at the resolution of its published accuracy."""
    rows = newest_networks()
    cells = []
    for name, published in PUBLISHED_NETWORKS.items():
        found = [fastest(rows, name, *key) for key in _SETTINGS]
        counted = next((row for row in found if row), None)
        if counted is None:
            continue
        cells.append(
            [
                published.label,
                str(published.image_size_px),
                f"{counted['parameters'] / 1e6:.1f} / {counted['macs'] / 1e9:.2f}",
                f"{published.top1_percent}",
                *(_figure(row, "median_ms" if batch == 1 else "images_per_s") for row, (_, batch) in _paired(found)),
            ]
        )
    header = ["network", "px", "parameters, M / MACs, G", "top-1, % (published)", "batch 1, ms (fp32)"]
    header += ["batch 1, ms (bf16)", "batch 16, images/s (fp32)", "batch 16, images/s (bf16)"]
    return table_if_any(header, cells)


_SETTINGS = (("fp32", 1), ("bf16", 1), ("fp32", 16), ("bf16", 16))


def _paired(found: list[Row | None]) -> list[tuple[Row | None, tuple[str, int]]]:
    return list(zip(found, _SETTINGS, strict=True))


def _figure(row: Row | None, what: str) -> str:
    return "" if row is None else f"{row[what]:.1f}"


def peers() -> str:
    """Engines side by side: ours and timm's."""
    cells = [
        [
            f"`{row['model']}`",
            f"{row['backend']} {row['precision']}",
            str(row["batch"]),
            f"{row['median_ms']:.1f} ({row['quartiles_ms'][0]:.1f} to {row['quartiles_ms'][1]:.1f})",
            f"{row['p95_ms']:.1f}",
            f"{row['images_per_s']:.1f}",
            "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
        ]
        for row in newest("peers_cpu").values()
    ]
    header = ["network", "engine", "batch", "ms (quartiles)", "p95, ms", "images/s", "peak memory, MiB"]
    return table_if_any(header, cells)


def ratios() -> str:
    """Ours over the best peer at the same precision; below 1 is slower."""
    rows = newest("peers_cpu")
    cells = []
    for ours, theirs in (("rexnet_100", "timm/rexnet_100"), ("rexnet_lite_100", "timm/efficientnet_lite0")):
        for precision, batch in _SETTINGS:
            mine, peer = fastest(rows, ours, precision, batch), fastest(rows, theirs, precision, batch)
            if mine is None or peer is None:
                continue
            names = (f"`{ours}`, {mine['backend']}", f"`{theirs}`, {peer['backend']}")
            times = (f"{mine['median_ms']:.1f}", f"{peer['median_ms']:.1f}")
            ratio = f"{peer['median_ms'] / mine['median_ms']:.2f}"
            cells.append([f"{precision}, batch {batch}", names[0], times[0], names[1], times[1], ratio])
    return table_if_any(["", "ours", "ms", "best of timm's", "ms", "times as fast"], cells)


def cases() -> str:
    """The native engine in bf16 beside the best other engine, on ours or timm's network, at other widths and sizes."""
    rows = {
        (row["model"], row["image_size_px"], row["backend"], row["batch"]): row for row in records.read("cases_cpu")
    }
    cells = []
    for (name, size_px, backend, batch), row in rows.items():
        if backend != "native":
            continue
        others = [
            each
            for key, each in rows.items()
            if key[0] in (name, f"timm/{name}") and key[1] == size_px and key[2] != "native" and key[3] == batch
        ]
        cells.append([f"`{name}`, {size_px} px", str(batch), *_beside(row, others)])
    return table_if_any(["network", "batch", "native, ms", "best other, ms", "", "times as fast"], cells)


def int8() -> str:
    """An int8 file in the native engine beside the best others in int8 and in float."""
    rows = newest("int8_cpu")
    cells = []
    for batch in (1, 16):
        mine = rows.get(("rexnet_100 int8 .onnx", "native", "fp32", batch))
        others = [row for (_, backend, _, each), row in rows.items() if backend != "native" and each == batch]
        for label, in_int8 in (("other engines in int8", True), ("other engines in bf16 or fp32", False)):
            chosen = [row for row in others if ("int8" in row["model"]) == in_int8]
            if mine and chosen:
                cells.append([label, str(batch), *_beside(mine, chosen)])
    return table_if_any(["beside", "batch", "native int8, ms", "best other, ms", "", "times as fast"], cells)


def _beside(mine: Row, others: list[Row]) -> list[str]:
    best = min(others, key=lambda row: row["median_ms"])
    name = f"{best['model']}, {best['backend']} {best['precision']}"
    ratio = best["median_ms"] / mine["median_ms"]
    return [f"{mine['median_ms']:.2f}", f"{best['median_ms']:.2f}", name, f"{ratio:.2f}"]


def fastest(rows: dict[tuple[str, str, str, int], Row], model: str, precision: str, batch: int) -> Row | None:
    found = [row for key, row in rows.items() if (key[0], key[2], key[3]) == (model, precision, batch)]
    return min(found, key=lambda row: row["median_ms"], default=None)


def image_folder() -> str:
    """The newest row of benchmarks/image_folder.py."""
    found = records.read("image_folder_cpu")[-1:]
    cells = [
        [name, f"{rates[1]:.1f} ({rates[0]:.1f} to {rates[2]:.1f})"]
        for row in found
        for name, rates in row["images_per_s"].items()
    ]
    return table_if_any(["folder of JPEG files, decoding included", "images/s (quartiles)"], cells)


def quantization() -> str:
    """The newest row of each network, engine and data of benchmarks/quantization.py that was measured on idle cores."""
    rows = [row for row in records.read("quantization_cpu") if not row["loaded"] and "refused" not in row]
    newest_rows = {(row["title"], row["model"], row["format"]): row for row in rows}
    cells = [
        [
            f"`{row['model']}`, {row['title']}",
            {"onnx": "ONNX Runtime", "xml": "OpenVINO"}[row["format"]],
            f"{row['float_percent']:.2f} / {row['bf16_percent']:.2f} / {row['int8_percent']:.2f}",
            f"{row['native_int8_percent']:.2f}" if "native_int8_percent" in row else "",
            str(row["int8_layers"]),
            *(_of_precisions(row["ms"][batch]) for batch in ("1", "16")),
        ]
        for row in newest_rows.values()
    ]
    names = ["network, data", "engine of int8", "top-1, %: float32 / bf16 / int8", "native int8, %", "int8 layers"]
    return table_if_any([*names, "batch 1, ms", "batch 16, ms"], cells)


def _of_precisions(ms: dict[str, list[float]]) -> str:
    names = ("float32", "bf16", "int8", "bf16 native", "int8 native")
    return " / ".join(f"{ms[name][1]:.2f}" for name in names if name in ms)


def serve_load() -> str:
    """The newest row of benchmarks/serve_load.py."""
    cells = [
        [label, f"{figures['requests_per_s']:.1f}", f"{figures['p50_ms']:.0f}", f"{figures['p99_ms']:.0f}"]
        for row in records.read("serve_load_cpu")[-1:]
        for label, figures in (
            (f"`rexnet serve`, {row['requests']:,} requests", row["ours"]),
            ("FastAPI with timm's network in PyTorch", row["plain"]),
        )
    ]
    return table_if_any(["16 clients at once, two cores", "requests/s", "median, ms", "99th percentile, ms"], cells)


def native_peak() -> str:
    """The native engine beside its limit; the last row of each network and precision."""
    rows = {(row["model"], row["precision"]): row for row in records.read("native_peak_cpu")}
    figures = ("network_gmacs_per_s", "micro_kernel_gmacs_per_s", "percent")
    cells = [
        [f"`{model}`", precision, *(f"{row[name]:.0f}" for name in figures)] for (model, precision), row in rows.items()
    ]
    return table_if_any(["one thread", "precision", "G MAC/s", "micro-kernel alone, G MAC/s", "%"], cells)


def native_accuracy() -> str:
    """The last row of each trained network, data and engine of benchmarks/native_accuracy.py."""
    rows = {(row["data"], row["model"], row["engine"]): row for row in records.read("native_accuracy_cpu")}
    cells = [
        [f"`{model}`, {data}", engine, f"{row['top1_percent']:.2f}", f"{row['other_class']} of {row['images']:,}"]
        for (data, model, engine), row in rows.items()
    ]
    return table_if_any(["network, data", "engine", "top-1, %", "predicted otherwise than by PyTorch in fp32"], cells)


TABLES: dict[str, Callable[[], str]] = {
    "quantization": quantization,
    "serve_load": serve_load,
    "deployment": networks,
    "peers": peers,
    "peer_ratios": ratios,
    "native_cases": cases,
    "native_int8": int8,
    "native_peak": native_peak,
    "native_accuracy": native_accuracy,
    "image_folder": image_folder,
}


def draw_figures(folder: Path) -> list[Path]:
    """Published accuracy against measured latency (batch 1, fp32, fastest engine) and against counted MACs; nothing
    while no network was measured."""
    measured = newest_networks()
    found = {key[0]: fastest(measured, key[0], "fp32", 1) for key in measured}
    rows = {name: row for name, row in found.items() if row}
    if not rows:
        return []
    latency = {name: row["median_ms"] for name, row in rows.items()}
    macs = {name: row["macs"] / 1e9 for name, row in rows.items()}
    device = next(iter(rows.values()))
    said = f"ms an image, fp32, fastest engine, {device['device']}, {device['threads']} threads"
    return [
        *_draw(latency, said, folder / "accuracy_latency"),
        *_draw(macs, "multiply-accumulates, G", folder / "accuracy_flops"),
    ]


def _draw(values: dict[str, float], label: str, stem: Path) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    for family in dict.fromkeys(published.family for published in PUBLISHED_NETWORKS.values()):
        members = [one for name, one in PUBLISHED_NETWORKS.items() if one.family == family and name in values]
        points = sorted((values[one.name], one.top1_percent, one.label.split()[-1]) for one in members)
        style: Any = {"color": COLOURS[family], "marker": MARKERS.get(family, "D"), "label": family}
        panel.plot([x for x, _, _ in points], [y for _, y, _ in points], linewidth=1.2, markersize=5, **style)
        for x, y, text in points:
            panel.annotate(text, (x, y), textcoords="offset points", xytext=(4, -9), fontsize=7)
    panel.set_xlabel(label)
    panel.set_ylabel("ImageNet-1k top-1, % (published)")
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)
    return write_figure(figure, stem)
