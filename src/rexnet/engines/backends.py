"""Engines that run a network: PyTorch, its compiler, ONNX Runtime, OpenVINO, the native engine.

An engine is a function of one tensor and may be called from several threads at once.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.engines.config import CPU_BACKENDS, EXTRA, FILE_BACKENDS, PRECISIONS, Backend, Engine, Precision
from rexnet.engines.graph_files import import_engine, openvino_core, trace
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import NativeNetwork
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet

CHANNEL_MULTIPLE = 8
"""Channel multiple: ONNX Runtime runs 1.2 times as fast as unpadded, OpenVINO 1.05 times; 16 is not faster."""

Network = Callable[[Tensor], Tensor]
"""Function of float32 images (B, 3, H, W) on any device that returns float32 (B, K) on the CPU."""


def open_network(
    model: nn.Module, engine: Engine, *, device: torch.device | str = "cpu", size_px: int = 224
) -> Network:
    """Return the fastest function in an engine that computes `model`'s logits; `model` is not changed.

    timm networks run unchanged, or in a graph traced at `size_px`. Raise MissingPackageError for an engine that is not
    installed, and ValueError for one that does not run here, on this device or with this network.
    """
    device = torch.device(device)
    ours = isinstance(model, RexNet)
    if engine.backend not in CPU_BACKENDS:
        return _torch_network(fold(model) if ours else deepcopy(model).eval(), engine, device)
    if device.type != "cpu":
        raise ValueError(f"{engine.backend} runs on the CPU here, but the device is {device}; allowed: torch, compile")
    if engine.backend == "native":
        if not ours:
            raise ValueError(f"native runs ReXNets only; allowed for other networks: {', '.join(list_backends(model))}")
        return NativeNetwork(model, precision=engine.precision, threads=engine.threads_of_a_call)
    if ours:
        return open_graph(onnx_graph(fold(pad(model, CHANNEL_MULTIPLE))).SerializeToString(), engine)
    return open_graph(trace_network(model, size_px=size_px), engine)


def list_backends(model: nn.Module) -> tuple[Backend, ...]:
    """Return the engines that compute a network."""
    return tuple(name for name in get_args(Backend) if name != "native" or isinstance(model, RexNet))


def is_installed(backend: Backend, precision: Precision, *, int8: bool = False) -> bool:
    """Return whether an engine that computes in this precision, or an `int8` file, is installed and runs on this
    machine."""
    return precision in PRECISIONS[backend] and explain_missing(backend, precision, int8=int8) is None


def explain_missing(backend: Backend, precision: Precision, *, int8: bool = False) -> str | None:
    """Explain in one clause why an engine does not run on this machine; None if it does."""
    if backend == "native":
        return why_missing("int8" if int8 else precision)
    installed = backend not in ("onnxruntime", "openvino") or find_spec(backend)
    return None if installed else f"it is not installed: pip install {EXTRA}"


def trace_network(model: nn.Module, *, size_px: int = 224) -> bytes:
    """Return an ONNX file of any network for images (batch, 3, height, width); an axis is dynamic if its layers allow
    it."""
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    return trace(model, torch.randn(2, 3, size_px, size_px), opset=17, axes=axes, inputs=["images"])


def open_graph(graph: bytes | str | Path, engine: Engine, *, any_shape: bool = False) -> "Graph":
    """Open a graph in ONNX Runtime or OpenVINO: an ONNX model or its content, or the path of an ONNX or OpenVINO file.

    With `any_shape`, OpenVINO compiles once for all sizes, as other programs do; else once per shape, which is faster.
    Raise MissingPackageError for an engine that is not installed.
    """
    if engine.backend == "onnxruntime":
        return _OnnxRuntimeGraph(graph, engine)
    return _OpenVinoGraph(graph, engine, any_shape=any_shape)


def engine_of_format(path: Path, *, threads: int | None = None) -> Engine:
    """Return the engine that the format of a .onnx or .xml file belongs to."""
    return Engine(backend=FILE_BACKENDS[path.suffix][0], threads=threads)


@final
class NetworkModule(nn.Module):
    """Module that calls a Network and returns its result on the device of the images."""

    def __init__(self, run: Network):
        super().__init__()
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images).to(images.device)


def _torch_network(model: nn.Module, engine: Engine, device: torch.device) -> Network:
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    model = model.to(device, dtype).to(memory_format=torch.channels_last)
    run = torch.compile(model, dynamic=True) if engine.backend == "compile" else model

    @torch.inference_mode()
    def network(images: Tensor) -> Tensor:
        with _torch_threads(engine.threads_of_a_call):
            return run(images.to(device, dtype, memory_format=torch.channels_last)).float().cpu()

    return network


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads, which is a setting of each calling thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Graph(ABC):
    """Graph in an engine, callable as a Network."""

    @abstractmethod
    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return all outputs of the graph."""

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.run(images.cpu().contiguous().numpy())[0])


@final
class _OnnxRuntimeGraph(Graph):
    """Session of ONNX Runtime on the CPU."""

    def __init__(self, graph: bytes | str | Path, engine: Engine):
        runtime = import_engine("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if engine.threads_of_a_call:
            options.intra_op_num_threads = engine.threads_of_a_call
        content = graph if isinstance(graph, bytes) else Path(graph).read_bytes()
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        graph_input = self._session.get_inputs()[0]
        self._input, self._one_image = graph_input.name, list(graph_input.shape)[:1] == [1]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        if self._one_image and len(images) > 1:  # a file that another program has fixed to batch 1
            outputs = zip(*(self.run(images[row : row + 1]) for row in range(len(images))), strict=True)
            return [np.concatenate(parts) for parts in outputs]
        return self._session.run(None, {self._input: images})


@final
class _OpenVinoGraph(Graph):
    """Model compiled by OpenVINO for the CPU, once for each shape of images: fixed shapes are a fifth faster. It
    computes in the given precision, even on a CPU with bfloat16."""

    _MOST_SHAPES = 8

    def __init__(self, graph: bytes | str | Path, engine: Engine, *, any_shape: bool):
        self._model = openvino_core().read_model(graph)
        self._any_shape = any_shape
        precision = {"fp32": "f32", "bf16": "bf16"}[engine.precision]
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if engine.threads:
            self._settings["INFERENCE_NUM_THREADS"] = engine.threads
        if engine.calls > 1:
            self._settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": engine.calls}
        if any(operation.get_type_name() == "FakeQuantize" for operation in self._model.get_ops()):
            # Their generated code returns garbage for int8 maps of one position (OpenVINO 2026.4).
            self._settings["SNIPPETS_MODE"] = "DISABLE"
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._compiling = threading.Lock()
        self._requests = threading.local()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        request = self._request(() if self._any_shape else images.shape)
        # Copy the results: the request's next call overwrites its memory.
        return [found.copy() for found in request.infer([images]).values()]

    def _request(self, shape: tuple[int, ...]) -> Any:
        """Return the inference request of this thread; a request serves one call at a time."""
        mine = self._requests.__dict__.setdefault("by_shape", {})
        if shape not in mine:
            if len(mine) >= self._MOST_SHAPES:
                mine.clear()
            mine[shape] = self._compile(shape).create_infer_request()
        return mine[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        with self._compiling:
            if shape not in self._compiled:
                if len(self._compiled) >= self._MOST_SHAPES:
                    self._compiled.clear()
                model = self._model.clone()
                if shape:
                    model.reshape(list(shape))
                self._compiled[shape] = openvino_core().compile_model(model, "CPU", self._settings)
            return self._compiled[shape]
