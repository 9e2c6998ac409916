"""Profile of one call in OpenVINO: milliseconds of each layer and of each kind of node, beside the least
that the layer's multiply-accumulates would take at the rate of this machine's large matrix products."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import nn

import records
import rexnet
from rexnet.cli.tables import new_table, show
from rexnet.engines.backends import CHANNEL_MULTIPLE
from rexnet.engines.config import Precision
from rexnet.engines.graph_files import import_engine
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.cost import measure_cost
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet

NAME = "profile_cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/profile_layers.py --precision bf16`"""

    model: str = "rexnet_100"
    image_size: int = 224
    batch: int = 1
    precision: Precision = "fp32"
    channel_multiple: int = CHANNEL_MULTIPLE
    rounds: int = 40
    threads: int = 2
    record: bool = True
    """Append the row to results/."""


def matrix_gmacs_per_s(precision: Precision, *, size: int = 1536, rounds: int = 9) -> float:
    """Median rate of PyTorch's product of two square matrices, on its present threads."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    seconds = []
    for _ in range(2 + rounds):
        start = time.perf_counter()
        torch.matmul(left, right)
        seconds.append(time.perf_counter() - start)
    return size**3 / statistics.median(seconds[2:]) / 1e9


def node_ms(model: RexNet, options: Options) -> tuple[dict[str, tuple[str, float]], float]:
    """{node: (its kind, median milliseconds)} and the median of the whole call, without profiling."""
    openvino = import_engine("openvino")
    core = openvino.Core()
    graph = core.read_model(onnx_graph(fold(pad(model, options.channel_multiple))).SerializeToString())
    shape = [options.batch, 3, options.image_size, options.image_size]
    graph.reshape(shape)
    images = torch.randn(shape).numpy()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[options.precision],
        "INFERENCE_NUM_THREADS": options.threads,
    }
    plain = core.compile_model(graph, "CPU", settings).create_infer_request()
    counted = core.compile_model(graph, "CPU", {**settings, "PERF_COUNT": True}).create_infer_request()
    whole: list[float] = []
    nodes: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for number in range(3 + options.rounds):
        start = time.perf_counter()
        plain.infer([images])
        taken = time.perf_counter() - start
        counted.infer([images])
        if number < 3:
            continue
        whole.append(taken * 1e3)
        for node in counted.profiling_info:
            if node.real_time.total_seconds():
                nodes[node.node_name].append(node.real_time.total_seconds() * 1e3)
                kinds[node.node_name] = f"{node.node_type} {node.exec_type}"
    found = {name: (kinds[name], statistics.median(times)) for name, times in nodes.items()}
    return found, statistics.median(whole)


def kind_of(name: str, node_type: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the kind of operation of a node; `name` begins with that of the module it was written from."""
    module = modules.get(name.partition("/")[0])
    if isinstance(module, nn.Conv2d) and "Convolution" in node_type:
        if module.kernel_size != (1, 1):
            return "depthwise" if module.groups > 1 else "stem"
        return "squeeze-excitation, classifier" if ".fc." in name or name.startswith("output") else "pointwise"
    return node_type.partition(" ")[0]


def layer_of(name: str) -> str:
    name = name.partition("/")[0]
    return ".".join(name.split(".")[:2]) if name.startswith(("features.", "output.")) else "between"


def profile(options: Options) -> dict[str, Any]:
    torch.manual_seed(0)
    model = rexnet.create_model(options.model).eval()
    macs = {layer.name: layer.macs for layer in measure_cost(model, options.image_size).layers}
    rate = matrix_gmacs_per_s(options.precision)
    nodes, whole_ms = node_ms(model, options)
    modules = dict(model.named_modules())
    by_kind: dict[str, float] = defaultdict(float)
    by_layer: dict[str, float] = defaultdict(float)
    for name, (kind, ms) in nodes.items():
        by_kind[kind_of(name, kind, modules)] += ms
        by_layer[layer_of(name)] += ms
    layers = {
        name: {
            "ms": round(ms, 3),
            "limit_ms": round(options.batch * macs.get(name, 0) / rate / 1e6, 3),
            "gmacs_per_s": round(options.batch * macs.get(name, 0) / ms / 1e6, 1),
        }
        for name, ms in by_layer.items()
    }
    return {
        "model": options.model,
        "image_size_px": options.image_size,
        "batch": options.batch,
        "precision": options.precision,
        "channel_multiple": options.channel_multiple,
        "rounds": options.rounds,
        "matrix_gmacs_per_s": round(rate, 1),
        "call_ms": round(whole_ms, 3),
        "limit_ms": round(options.batch * sum(macs.values()) / rate / 1e6, 3),
        "kinds_ms": {kind: round(ms, 3) for kind, ms in sorted(by_kind.items(), key=lambda item: -item[1])},
        "layers": layers,
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    row = profile(options)
    table = new_table("layer", "ms", "limit, ms", "GMACs/s")
    for name, cells in row["layers"].items():
        table.add_row(name, f"{cells['ms']:.3f}", f"{cells['limit_ms']:.3f}", f"{cells['gmacs_per_s']:.1f}")
    show(table)
    kinds = new_table("kind of node", "ms", "%")
    total = sum(row["kinds_ms"].values())
    for kind, ms in row["kinds_ms"].items():
        kinds.add_row(kind, f"{ms:.3f}", f"{100 * ms / total:.1f}")
    show(kinds)
    print(f"call {row['call_ms']:.2f} ms, limit {row['limit_ms']:.2f} ms at {row['matrix_gmacs_per_s']} GMACs/s")
    if options.record:
        print(f"appended to {records.append(NAME, {**row, **records.provenance('cpu')})}")


if __name__ == "__main__":
    main()
