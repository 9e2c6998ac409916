"""How fast float32, bf16 and int8 are on this machine, and what follows from it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rexnet.deploy.int8_graph import Int8Backend
from rexnet.engines.backends import Engine, open_graph
from rexnet.engines.timing import interleaved_ms

ENGINE_NAMES: Mapping[Int8Backend, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds of a batch in each round, all precisions taking turns."""

    batch: int
    ms: Mapping[str, Sequence[float]]
    """By "float32", "bf16" and "int8"."""

    def median_ms(self, precision: str) -> float:
        return statistics.median(self.ms[precision])


def engines(backend: Int8Backend) -> dict[str, Int8Backend]:
    """What runs each precision beside int8 in `backend`: of the two, OpenVINO alone computes in bf16."""
    return {"float32": backend, "bf16": "openvino", "int8": backend}


def measure_speed(
    float_graph: bytes, int8_graph: bytes, images: Tensor, *, backend: Int8Backend, rounds: int, threads: int | None
) -> list[Speed]:
    """For a batch of one and for all of `images` (B, 3, H, W)."""
    networks = {
        name: open_graph(
            int8_graph if name == "int8" else float_graph,
            Engine(backend=engine, precision="bf16" if name == "bf16" else "fp32", threads=threads),
        )
        for name, engine in engines(backend).items()
    }
    found = []
    for count in sorted({1, len(images)}):
        calls = {name: partial(network, images[:count]) for name, network in networks.items()}
        found.append(Speed(batch=count, ms=interleaved_ms(calls, rounds=rounds)))
    return found


def advice(speeds: Sequence[Speed]) -> str:
    """One sentence on whether int8 is faster here than the faster of float32 and bf16."""
    rival = {speed.batch: min(("float32", "bf16"), key=speed.median_ms) for speed in speeds}
    slower = [speed for speed in speeds if speed.median_ms("int8") >= speed.median_ms(rival[speed.batch])]
    names = " and ".join(sorted({rival[speed.batch] for speed in slower or speeds}))
    figures = ", ".join(
        f"{speed.median_ms('int8'):.2f} against {speed.median_ms(rival[speed.batch]):.2f} ms at batch {speed.batch}"
        for speed in slower or speeds
    )
    if not slower:
        return f"int8 is faster than {names} on this machine ({figures})"
    if len(slower) == len(speeds):
        return f"int8 is slower than {names} on this machine ({figures}) and should not be used here: take that instead"
    rest = " and ".join(str(speed.batch) for speed in speeds if speed not in slower)
    return f"int8 is slower than {names} on this machine ({figures}): take that there, int8 at batch {rest}"
