"""The native engine beside its limit: multiply-accumulates a second on one thread, of whole networks (an image of
224 px a call) and of the micro-kernel alone. Both take turns.

python benchmarks/native_peak.py
"""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from deployment import write_int8

import records
import rexnet
from rexnet.engines.config import PRECISIONS
from rexnet.engines.measuring import interleaved_ms
from rexnet.engines.native.network import NativeNetwork
from rexnet.engines.onnx_graph import read_network
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet

MODELS = ("rexnet_100", "rexnet_lite_100")
REPEATS, ROUNDS = 4000, 100


def networks(model: RexNet) -> Iterator[tuple[str, NativeNetwork]]:
    for precision in PRECISIONS["native"]:
        yield precision, NativeNetwork(model, precision=precision, threads=1)
    with TemporaryDirectory() as folder:
        write_int8(model, path := Path(folder, "int8.onnx"))
        read = read_network(path, model.config)
        yield "int8", NativeNetwork(read.model, precision="int8", threads=1, scales=read.scales)


def main() -> None:
    records.start()
    images = torch.randn(1, 3, 224, 224)
    for name in MODELS:
        model = rexnet.create_model(name).eval()
        macs = measure_cost(model, 224).macs
        for precision, network in networks(model):
            calls = {"network": partial(network, images), "micro-kernel": partial(network.run_peak, REPEATS)}
            times = interleaved_ms(calls, rounds=ROUNDS, calls_per_turn=2)
            ms = {what: statistics.median(found) for what, found in times.items()}
            rates = {"network": macs / ms["network"], "micro_kernel": network.run_peak(REPEATS) / ms["micro-kernel"]}
            row = {f"{what}_gmacs_per_s": round(rate / 1e6, 1) for what, rate in rates.items()}
            percent = round(100 * rates["network"] / rates["micro_kernel"], 1)
            row = {"model": name, "precision": precision, "ms": round(ms["network"], 3), **row, "percent": percent}
            print(row)
            records.append("native_peak_cpu", {**row, "threads": 1, "rounds": ROUNDS, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
