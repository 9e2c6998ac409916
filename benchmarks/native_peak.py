"""The native engine beside its limit: multiply-accumulates a second on one thread, of whole networks (an image of
224 px a call) and of the micro-kernel alone. Both take turns.

python benchmarks/native_peak.py
"""

import statistics
from functools import partial

import torch

import records
import rexnet
from rexnet.engines.config import PRECISIONS
from rexnet.engines.measuring import interleaved_ms
from rexnet.engines.native.network import NativeNetwork
from rexnet.models.cost import measure_cost

MODELS = ("rexnet_100", "rexnet_lite_100")
REPEATS, ROUNDS = 4000, 100


def main() -> None:
    images = torch.randn(1, 3, 224, 224)
    for name in MODELS:
        model = rexnet.create_model(name).eval()
        macs = measure_cost(model, 224).macs
        for precision in PRECISIONS["native"]:
            network = NativeNetwork(model, precision=precision, threads=1)
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
