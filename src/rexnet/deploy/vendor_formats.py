"""ExecuTorch, Core ML and TensorRT through their packages, which no extra of ours brings: written after their manuals
and, where this project is tested, not run.

Each file takes one image of one size.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.engines.graph_files import KEY, Run


def write_executorch(layers: nn.Module, images: Tensor, path: Path) -> Run:
    """For the CPU of a telephone, through XNNPACK."""
    exir = _import("executorch.exir", format="executorch", package="executorch")
    xnnpack: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    runtime: Any = import_module("executorch.runtime")
    program = torch.export.export(layers, (images,))
    edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    loaded = runtime.Runtime.get().load_program(path)
    method = loaded.load_method("forward")

    def run(images: np.ndarray) -> list[np.ndarray]:
        assert loaded is not None  # the method reads its memory
        return [found.numpy() for found in method.execute([torch.from_numpy(images)])]

    return run


def write_coreml(layers: nn.Module, images: Tensor, path: Path, *, facts: dict[str, Any]) -> Run | None:
    """For Apple's devices; it can be written anywhere, and run on macOS only."""
    coremltools = _import("coremltools", format="coreml", package="coremltools")
    program = torch.export.export(layers, (images,)).run_decompositions({})
    model = coremltools.convert(program, compute_precision=coremltools.precision.FLOAT32)
    model.user_defined_metadata[KEY] = json.dumps(facts)
    model.save(str(path))
    if sys.platform != "darwin":
        return None
    name = model.input_description._fd_spec[0].name
    return lambda images: list(model.predict({name: images}).values())


def write_tensorrt(graph: bytes, shape: tuple[int, ...], path: Path) -> Run:
    """For the GPU of this machine, from an ONNX graph; TF32 is off, so that it computes what PyTorch does."""
    tensorrt = _import("tensorrt", format="tensorrt", package="tensorrt")
    log = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(log)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise ValueError(f"TensorRT does not take the graph: {parser.get_error(0)}")
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    profile.set_shape(network.get_input(0).name, shape, shape, shape)
    config.add_optimization_profile(profile)
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError("TensorRT could not build an engine; its messages above say why")
    path.write_bytes(engine)
    return _run_in_tensorrt(tensorrt, log, path)


def _run_in_tensorrt(tensorrt: Any, log: Any, path: Path) -> Run:
    engine = tensorrt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]

    def run(images: np.ndarray) -> list[np.ndarray]:
        tensors = {}
        for name in names:
            if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                tensors[name] = torch.from_numpy(images).cuda()
            else:
                tensors[name] = torch.empty(tuple(engine.get_tensor_shape(name)), device="cuda")
            context.set_tensor_address(name, tensors[name].data_ptr())
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        return [tensors[name].cpu().numpy() for name in names[1:]]

    return run


def _import(module: str, *, format: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"--format {format} needs the package {package}: pip install {package}") from error
