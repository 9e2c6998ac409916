"""Description of a network for C++ (description.h): the layers of `inference_form.fold` as plain numbers and arrays."""

import ctypes
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.engines.onnx_graph import Int8Scales
from rexnet.models.blocks import LinearBottleneck
from rexnet.models.config import ACTIVATION_NAMES
from rexnet.models.rexnet import RexNet

_Array = ctypes.POINTER(ctypes.c_float)
_SIGMOID = len(ACTIVATION_NAMES)


def _integers(*names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, ctypes.c_int32) for name in names)


class _Convolution(ctypes.Structure):
    _fields_ = (
        *_integers("inputs", "outputs", "activation"),
        *((name, _Array) for name in ("weights", "bias", "weight_scales")),
        *((name, ctypes.c_float) for name in ("input_scale", "input_zero")),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *_integers("stride", "dilation", "kernel", "shortcut", "depthwise_activation", "channels"),
        ("taps", _Array),
        ("taps_bias", _Array),
        *((name, _Convolution) for name in ("expand", "squeeze", "excite", "project")),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        *_integers("image_channels", "stem_channels", "stem_stride", "stem_activation", "num_blocks"),
        ("stem_taps", _Array),
        ("stem_bias", _Array),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, _Convolution) for name in ("penultimate", "hidden", "classifier")),
    )


def _check(scales: Int8Scales, name: str, outputs: int) -> None:
    """Raise ValueError for scales that C++ would read beyond their end, divide by or convert to no byte."""
    steps = torch.cat([scales.weight_scales.flatten().float(), torch.tensor([scales.input_scale])])
    if scales.weight_scales.shape != (outputs,) or not (steps.isfinite() & (steps > 0)).all():
        raise ValueError(
            f"{name} has weight scales of the shape {tuple(scales.weight_scales.shape)} and scales from "
            f"{steps.min():g} to {steps.max():g}; allowed: shape ({outputs},), above 0; quantise again"
        )
    if not 0 <= scales.input_zero <= 255:
        raise ValueError(f"{name} has the zero point {scales.input_zero}; allowed: 0 to 255; quantise again")


class Description:
    """A network as C++ reads it, `network`, and the arrays that it points to; C++ copies them.

    `model` has no batch norms. `scales`: of its convolutions by name, for int8. Raise ValueError for a network that the
    engine does not compute.
    """

    def __init__(self, model: RexNet, scales: Mapping[str, Int8Scales] | None = None):
        config = model.config
        if model.global_pool != "avg" or len(model.features) != model.num_feature_layers:
            raise ValueError(f"global_pool is {model.global_pool!r}; allowed in the native engine: 'avg'")
        # The channels that the engine adds must stay zero where a shortcut adds them to others.
        before = (config.activation, *(block.out_activation for block in config.blocks))
        if any(block.shortcut and name == "softplus" for block, name in zip(config.blocks, before, strict=False)):
            raise ValueError("a shortcut follows softplus; allowed in the native engine: activations that keep zero")
        self._arrays: list[np.ndarray] = []
        self._scales, self._names = scales, {layer: name for name, layer in model.named_modules()}
        stem, *penultimate = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
        blocks = [layer for layer in model.features if isinstance(layer, LinearBottleneck)]
        head = [layer for layer in model.output if isinstance(layer, nn.Conv2d)]
        self.network = _Network(
            image_channels=config.in_channels,
            stem_channels=config.stem_channels,
            stem_stride=config.stem_stride,
            stem_activation=ACTIVATION_NAMES.index(config.activation),
            num_blocks=len(blocks),
            stem_taps=self._array(stem.weight),
            stem_bias=self._array(stem.bias),
            blocks=(_Block * len(blocks))(*map(self._block, blocks)),
        )
        if penultimate:
            self.network.penultimate = self._of_map(penultimate[0], config.activation)
        if config.head_hidden_channels:
            self.network.hidden = self._convolution(head[0], config.activation)
        if config.num_classes:
            self.network.classifier = self._convolution(head[-1], "identity")

    def _block(self, block: LinearBottleneck) -> _Block:
        spec = block.spec
        found = [layer for layer in block.out.modules() if isinstance(layer, nn.Conv2d)]
        depthwise = found[int(block.num_expand_layers > 0)]
        made = _Block(
            stride=spec.stride,
            dilation=spec.dilation,
            kernel=spec.kernel_size,
            shortcut=spec.shortcut,
            depthwise_activation=ACTIVATION_NAMES.index(spec.depthwise_activation),
            channels=spec.expanded_channels,
            taps=self._array(depthwise.weight),
            taps_bias=self._array(depthwise.bias),
            project=self._of_map(found[-1], spec.out_activation),
        )
        if block.num_expand_layers:
            made.expand = self._of_map(found[0], spec.expand_activation)
        if spec.se_channels:
            made.squeeze = self._convolution(found[-3], "relu")
            made.excite = self._convolution(found[-2], "sigmoid")
        return made

    def _of_map(self, layer: nn.Conv2d, activation: str) -> _Convolution:
        """Describe a 1x1 convolution of a map, which int8 computes with bytes."""
        made = self._convolution(layer, activation)
        if self._scales is not None:
            found = self._scales.get(name := self._names[layer])
            if found is None:
                raise ValueError(f"{name} has no int8 scales; allowed: files of `rexnet quantize`")
            _check(found, name, layer.out_channels)
            made.weight_scales = self._array(found.weight_scales)
            made.input_scale, made.input_zero = found.input_scale, found.input_zero
        return made

    def _convolution(self, layer: nn.Conv2d, activation: str) -> _Convolution:
        return _Convolution(
            inputs=layer.in_channels,
            outputs=layer.out_channels,
            activation=_SIGMOID if activation == "sigmoid" else ACTIVATION_NAMES.index(activation),
            weights=self._array(layer.weight),
            bias=self._array(layer.bias),
        )

    def _array(self, values: Tensor | None) -> object:
        assert values is not None, "the network has a convolution without a bias: fold it first"
        array = np.ascontiguousarray(values.detach().float().cpu().numpy())
        self._arrays.append(array)
        return array.ctypes.data_as(_Array)
