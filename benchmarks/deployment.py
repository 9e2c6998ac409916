"""ReXNet beside the networks of its paper and their successors on this machine, and this package's engines beside what
timm's users do.

`networks` measures each network at the resolution its published accuracy belongs to. `peers` measures a network of ours
beside timm's of the same name, eager, compiled, in ONNX Runtime and in OpenVINO, and ReXNet-lite beside
EfficientNet-lite. `cases` measures other widths and sizes in bf16, and `int8` files. All contenders of one batch size
take turns, each in a process of its own, on the same threads, and timm's graphs are called the way ours are: compiled
for the shape of the images.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import tyro

import records
from published_networks import PUBLISHED_NETWORKS
from rexnet.data.preprocess import Preprocess
from rexnet.deploy.bench import BenchRow, find_subject, measure_subjects
from rexnet.deploy.classifiers import EngineCheck, ExportedFile
from rexnet.deploy.config import BACKENDS, BenchConfig
from rexnet.deploy.int8_graph import int8_graph
from rexnet.engines.backends import CHANNEL_MULTIPLE
from rexnet.engines.config import Backend, Precision
from rexnet.engines.graph_files import write_graph
from rexnet.engines.measuring import engine_versions
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet

CASES = (
    ("rexnet_050", 224),
    ("rexnet_130", 224),
    ("rexnet_200", 224),
    ("rexnet_lite_100", 224),
    ("rexnet_100", 128),
    ("rexnet_100", 288),
)
"""Network and size in pixels."""
OF_TIMM = ("rexnet_100", "rexnet_130", "rexnet_200")
"""Networks that timm has by the same name."""
PAIRS = (("rexnet_100", "timm/rexnet_100"), ("rexnet_lite_100", "timm/efficientnet_lite0"))
"""Ours, and the peer of timm."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/deployment.py networks`, `... peers`, `... cases`, `... int8`"""

    what: Annotated[Literal["networks", "peers", "cases", "int8"], tyro.conf.Positional]
    backends: tuple[Backend, ...] | None = None
    """None: OpenVINO for networks; torch, native, ONNX Runtime and OpenVINO for peers; without torch for the others."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Of cases only bf16."""
    batch: tuple[int, ...] = (1, 16)
    rounds: int = 15
    threads: int = 2
    compile: bool = False
    """Peers under torch.compile as well, minutes each."""
    memory: bool = True
    """Peak memory of each in a process of its own."""
    only: tuple[str, ...] = ()
    """Measure only the networks whose names hold one of these."""

    def bench_config(self, default: tuple[Backend, ...]) -> BenchConfig:
        backends = self.backends or (*default, *(("compile",) if self.compile else ()))
        return BenchConfig(
            backends=backends,
            precisions=self.precisions,
            batch=self.batch,
            rounds=self.rounds,
            threads=self.threads,
            memory=self.memory,
        )


def rounded(row: BenchRow) -> dict[str, Any]:
    figures = asdict(row)
    figures |= {name: round(figures[name], 3) for name in ("median_ms", "p95_ms", "images_per_s")}
    figures["quartiles_ms"] = [round(value, 3) for value in row.quartiles_ms]
    return figures | {"peak_mib": row.peak_mib and round(row.peak_mib)}


def measure_networks(options: Options) -> list[dict[str, Any]]:
    wanted = [
        published
        for published in PUBLISHED_NETWORKS.values()
        if not options.only or any(part in published.name for part in options.only)
    ]
    subjects = [replace(find_subject(one.name), image_size_px=one.image_size_px) for one in wanted]
    rows = measure_subjects(subjects, options.bench_config(("openvino",)))
    return [{**rounded(row), "top1_percent_published": PUBLISHED_NETWORKS[row.model].top1_percent} for row in rows]


def measure_peers(options: Options) -> list[dict[str, Any]]:
    names = [
        name for pair in PAIRS if not options.only or any(part in pair[0] for part in options.only) for name in pair
    ]
    rows = measure_subjects([find_subject(name) for name in names], options.bench_config(_PEER_BACKENDS))
    return [rounded(row) for row in rows]


_PEER_BACKENDS: tuple[Backend, ...] = ("torch", "native", "onnxruntime", "openvino")


def measure_cases(options: Options) -> list[dict[str, Any]]:
    config = replace(options.bench_config(_PEER_BACKENDS[1:]), precisions=("bf16",))
    rows = []
    for name, size_px in CASES:
        if options.only and not any(part in name for part in options.only):
            continue
        names = [name, f"timm/{name}"] if name in OF_TIMM else [name]
        rows += measure_subjects([find_subject(each) for each in names], replace(config, image_size=size_px))
    return [rounded(row) for row in rows]


def write_int8(model: RexNet, path: Path) -> None:
    """Write an int8 file of a network with random weights, calibrated on noise: only its time counts."""
    noise = list(torch.randn(8, 3, 224, 224).split(1))
    unknown = EngineCheck(right=True, percent=0.0, float_percent=0.0)
    facts = ExportedFile(
        classes=(),
        preprocess=Preprocess(),
        config=model.config,
        precision="int8",
        engines={"onnxruntime": unknown, "openvino": unknown, "native": unknown},
    )
    graph = onnx_graph(fold(pad(model, CHANNEL_MULTIPLE)))
    write_graph(int8_graph(graph, noise, BACKENDS[path.suffix]), facts.to_dict(), path)


def measure_int8(options: Options) -> list[dict[str, Any]]:
    """Measure int8 files of rexnet_100, for ONNX Runtime and for OpenVINO, beside the float networks."""
    model = create_model("rexnet_100")
    with TemporaryDirectory() as folder:
        files = [Path(folder, f"int8{suffix}") for suffix in BACKENDS]
        for file in files:
            write_int8(model, file)
        labels = {str(file): f"rexnet_100 int8 {file.suffix}" for file in files}
        subjects = [find_subject(name) for name in (*labels, "rexnet_100", "timm/rexnet_100")]
        rows = measure_subjects(subjects, options.bench_config(_PEER_BACKENDS[1:]))
    return [{**rounded(row), "model": labels.get(row.model, row.model)} for row in rows]


MEASUREMENTS = {
    "networks": ("deployment_cpu", measure_networks),
    "peers": ("peers_cpu", measure_peers),
    "cases": ("cases_cpu", measure_cases),
    "int8": ("int8_cpu", measure_int8),
}
"""File of the rows, and the function."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name, measure = MEASUREMENTS[options.what]
    facts = {**records.provenance("cpu"), **engine_versions(), "rounds": options.rounds}
    for row in measure(options):
        print(f"{row['model']:30} {row['backend']:12} {row['precision']} batch {row['batch']}: {row['median_ms']} ms")
        records.append(name, {**row, **facts})
    print(f"appended to results/{name}.jsonl")


if __name__ == "__main__":
    main()
