"""A network in the native engine."""

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rexnet.engines.native.description import Description
from rexnet.engines.native.library import load, open_arguments, why_missing
from rexnet.engines.onnx_graph import Int8Scales
from rexnet.models.config import STEM_LAYERS
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from rexnet.processes import usable_cpus

LONGEST_SIDE_PX = 8192


def open_features(model: RexNet) -> Callable[[Tensor], Tensor] | None:
    """Return the function from images to `model`'s features after pooling, (B, num_features), in fp32 on PyTorch's
    number of threads; None where the engine does not run or does not compute this network."""
    if why_missing():
        return None
    with torch.device("meta"):  # draws no random numbers, whose order a training keeps
        trunk = RexNet(replace(model.config, num_classes=0, head_hidden_channels=0))
    trunk.features = model.features
    try:
        return NativeNetwork(trunk, threads=torch.get_num_threads())
    except ValueError:
        return None


class NativeNetwork:
    """Function from images (B, C, H, W) to logits (B, K), float32 on the CPU, that any number of threads may call at
    once. A batch takes an image a thread, a single image all threads; neither changes the bits of a result.

    `threads` None: those of the process. `scales`: of the convolutions by name, for the precision int8. Raise
    ValueError for a machine without the engine, and for a network that it does not compute.
    """

    def __init__(
        self,
        model: RexNet,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        scales: Mapping[str, Int8Scales] | None = None,
    ):
        if reason := why_missing(precision):
            raise ValueError(f"the native engine does not run here: {reason}")
        description = Description(fold(model), (scales or {}) if precision == "int8" else None)
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; allowed: 1 or more, or None")
        self._model: _Model | None = _Model(description, precision, threads or usable_cpus())
        self._channels, self._outputs = model.config.in_channels, model.num_classes or model.head_hidden_size
        levels = model.level_of_stride.values()
        self._blocks = {
            each.stride: (each.layer - STEM_LAYERS, each.channels) for each in levels if each.layer >= STEM_LAYERS
        }

    def __call__(self, images: Tensor) -> Tensor:
        array = self._checked(images)
        results = np.empty((len(array), self._outputs), np.float32)
        self._run(array, results.ctypes.data, {})
        return torch.from_numpy(results)

    def feature_maps(self, images: Tensor, strides: Sequence[int]) -> dict[int, Tensor]:
        """Return narrow maps by stride, as `RexNet.feature_maps` does, of strides that the network has behind its
        stem."""
        array = self._checked(images)
        maps: dict[int, np.ndarray] = {}
        for stride in strides:
            if stride not in self._blocks:
                raise ValueError(f"stride is {stride}; allowed: {', '.join(map(str, self._blocks))}")
            _, channels = self._blocks[stride]
            # Convolutions with a stride round sizes up.
            size = (-(-side // stride) for side in array.shape[2:])
            maps[stride] = np.empty((len(array), channels, *size), np.float32)
        self._run(array, None, maps)
        return {stride: torch.from_numpy(found) for stride, found in maps.items()}

    @property
    def memory_bytes(self) -> int:
        """Memory for weights, and for the activations of the calls so far."""
        return load().rexnet_bytes(self._opened().pointer)

    def run_peak(self, repeats: int) -> float:
        """Run the micro-kernel alone on this thread, on data in the first cache, which is the machine's limit; return
        the number of multiply-accumulates."""
        return load().rexnet_peak_macs(self._opened().pointer, repeats)

    def close(self) -> None:
        """Release threads and memory, when the calls that still run have ended; the network cannot be called any
        more."""
        self._model = None

    def _opened(self) -> "_Model":
        """Return the model, which is not released while the caller holds it. Raise ValueError after `close`."""
        if self._model is None:
            raise ValueError("the network is closed; open it again")
        return self._model

    def _checked(self, images: Tensor) -> np.ndarray:
        """Return the images as the library reads them. Raise ValueError for anything else than images of this
        network."""
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != self._channels or not all(1 <= side <= LONGEST_SIDE_PX for side in shape[2:]):
            raise ValueError(
                f"images have the shape {shape}; allowed: (batch, {self._channels}, height, width), sides of 1 to "
                f"{LONGEST_SIDE_PX} pixels"
            )
        if not images.is_floating_point():
            raise ValueError(f"images are of the type {images.dtype}; allowed: floating point")
        return images.detach().to("cpu", torch.float32).contiguous().numpy()

    def _run(self, images: np.ndarray, results: int | None, maps: dict[int, np.ndarray]) -> None:
        model = self._opened()
        if not len(images) or (results is None and not maps):
            return
        blocks = (ctypes.c_int32 * len(maps))(*(self._blocks[stride][0] for stride in maps))
        pointers = (ctypes.c_void_p * len(maps))(*(found.ctypes.data for found in maps.values()))
        batch, _, height, width = images.shape
        if not load().rexnet_run(
            model.pointer, images.ctypes.data, batch, height, width, results, blocks, pointers, len(maps)
        ):
            raise MemoryError(f"there is no memory, or no thread, for images of {height} x {width} pixels")


class _Model:
    """A model of the library, which is released with the last reference to this object."""

    def __init__(self, description: Description, precision: str, threads: int):
        library = load()
        opened = library.rexnet_open(ctypes.byref(description.network), *open_arguments(precision), threads)
        if not opened:
            raise MemoryError("there is no memory for the network's weights")
        self.pointer = ctypes.c_void_p(opened)
        weakref.finalize(self, library.rexnet_close, self.pointer)
