"""ReXNet beside the networks of its paper and their successors on this machine, and this package's engines beside what
timm's users do.

`networks` measures each network at the resolution its published accuracy belongs to. `peers` measures a network of ours
beside timm's of the same name, eager, compiled, in ONNX Runtime and in OpenVINO, and ReXNet-lite beside
EfficientNet-lite. All contenders of one batch size take turns in one process, on the same threads, and timm's graphs
are called the way ours are: compiled for the shape of the images.
"""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import torch
import tyro

import records
from published_networks import PUBLISHED_NETWORKS
from rexnet.deploy.bench import BenchRow, find_subject, measure_subjects
from rexnet.deploy.config import BenchConfig
from rexnet.engines.config import Backend, Precision
from rexnet.engines.measuring import engine_versions

NETWORKS, PEERS = "deployment_cpu", "peers_cpu"
PAIRS = (("rexnet_100", "timm/rexnet_100"), ("rexnet_lite_100", "timm/efficientnet_lite0"))
"""Ours, and the peer of timm."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/deployment.py networks`, `... peers`"""

    what: Annotated[Literal["networks", "peers"], tyro.conf.Positional]
    backends: tuple[Backend, ...] | None = None
    """None: OpenVINO for networks; torch, ONNX Runtime and OpenVINO for peers."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
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


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name, measure = (NETWORKS, measure_networks) if options.what == "networks" else (PEERS, measure_peers)
    facts = {**records.provenance("cpu"), **engine_versions(), "rounds": options.rounds}
    for row in measure(options):
        print(f"{row['model']:30} {row['backend']:12} {row['precision']} batch {row['batch']}: {row['median_ms']} ms")
        records.append(name, {**row, **facts})
    print(f"appended to results/{name}.jsonl")


if __name__ == "__main__":
    main()
