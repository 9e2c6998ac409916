"""State-dict keys: timm's names to the official ones and back, for any depth and width."""

import re
from collections.abc import Mapping

from torch import Tensor

from rexnet.errors import WeightsError

# The official stem is three layers of `features` (convolution, norm, activation); blocks follow, one layer each.
_STEM_LAYERS = 3
_TIMM_BLOCK_KEY = re.compile(r"features\.(\d+)\.(conv_exp|conv_dw|se|conv_pwl)\.(\w+)\.(\w+)")
_TIMM_PENULTIMATE_KEY = re.compile(r"features\.(\d+)\.(conv|bn)\.(\w+)")
_BLOCK_KEY = re.compile(r"features\.(\d+)\.out\.(\d+)\.(.+)")
_PLAIN_KEY = re.compile(r"features\.(\d+)\.(\w+)")
_SE_LAYERS = {"fc1": "fc.0", "bn": "fc.1", "fc2": "fc.3"}
_BLOCK_PARTS = ("conv_exp", "conv_dw", "conv_pwl")


def has_timm_keys(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether the keys are those of a timm RexNet."""
    return "stem.conv.weight" in state_dict and any(_TIMM_BLOCK_KEY.fullmatch(key) for key in state_dict)


def timm_to_native(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a timm rexnet_* or rexnetr_* state dict under the official keys, the classifier as a 1x1 convolution.

    Raise WeightsError for a key that timm's networks do not have. Source: timm rexnet.py, clovaai/rexnet rexnetv1.py.
    """
    parts: dict[int, set[str]] = {}
    for match in filter(None, map(_TIMM_BLOCK_KEY.fullmatch, state_dict)):
        parts.setdefault(int(match[1]), set()).add(match[2])
    return {
        _native_key(key, parts): value[:, :, None, None] if key == "head.fc.weight" and value.ndim == 2 else value
        for key, value in state_dict.items()
    }


def _native_key(key: str, parts: dict[int, set[str]]) -> str:
    stem, _, rest = key.partition(".")
    if stem == "stem" and rest.startswith(("conv.", "bn.")):
        layer, _, leaf = rest.partition(".")
        return f"features.{int(layer == 'bn')}.{leaf}"
    if key in ("head.fc.weight", "head.fc.bias"):
        return f"output.1.{key.rpartition('.')[2]}"
    if match := _TIMM_PENULTIMATE_KEY.fullmatch(key):
        return f"features.{int(match[1]) + _STEM_LAYERS + int(match[2] == 'bn')}.{match[3]}"
    if match := _TIMM_BLOCK_KEY.fullmatch(key):
        index, part, layer, leaf = int(match[1]), match[2], match[3], match[4]
        # Each part is convolution and norm; an activation follows the expansion and precedes the projection.
        start = {"conv_exp": 0, "conv_dw": 3 * ("conv_exp" in parts[index])}
        start["se"] = start["conv_dw"] + 2
        start["conv_pwl"] = start["se"] + ("se" in parts[index]) + 1
        inner = _SE_LAYERS.get(layer) if part == "se" else {"conv": 0, "bn": 1}.get(layer)
        if inner is not None:
            place = f"{start['se']}.{inner}" if part == "se" else start[part] + int(inner)
            return f"features.{index + _STEM_LAYERS}.out.{place}.{leaf}"
    raise WeightsError(f"a timm RexNet has no tensor called {key!r}")


def native_to_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reverse `timm_to_native`. Raise WeightsError for networks that timm does not have (lite, plain)."""
    layers = sorted({int(match[1]) for match in filter(None, map(_PLAIN_KEY.fullmatch, state_dict))})
    if "output.4.weight" in state_dict or len(layers) != 4:
        raise WeightsError("timm has no counterpart to this network; it has rexnet_* and rexnetr_* only")
    convolutions: dict[int, list[int]] = {}
    for match in filter(None, map(_BLOCK_KEY.fullmatch, state_dict)):
        if match[3] == "weight" and f"features.{match[1]}.out.{match[2]}.running_mean" not in state_dict:
            convolutions.setdefault(int(match[1]), []).append(int(match[2]))
    timm = {
        _timm_key(key, convolutions): value.flatten(1) if key == "output.1.weight" else value
        for key, value in state_dict.items()
    }
    if timm_to_native(timm).keys() != state_dict.keys():
        raise WeightsError("timm has no counterpart to this network; its blocks have other layers")
    return timm


def _timm_key(key: str, convolutions: dict[int, list[int]]) -> str:
    if key in ("output.1.weight", "output.1.bias"):
        return f"head.fc.{key.rpartition('.')[2]}"
    if match := _PLAIN_KEY.fullmatch(key):
        layer = int(match[1])
        if layer < _STEM_LAYERS:
            return f"stem.{('conv', 'bn')[layer]}.{match[2]}"
        last_block = max(convolutions)
        return f"features.{last_block - _STEM_LAYERS + 1}.{('conv', 'bn')[layer - last_block - 1]}.{match[2]}"
    if match := _BLOCK_KEY.fullmatch(key):
        block, layer, leaf = int(match[1]), int(match[2]), match[3]
        name = f"features.{block - _STEM_LAYERS}"
        if leaf.startswith("fc."):
            native, _, leaf = leaf.rpartition(".")
            return f"{name}.se.{next(timm for timm, own in _SE_LAYERS.items() if own == native)}.{leaf}"
        places = sorted(convolutions.get(block, []))
        parts = dict(zip(places, _BLOCK_PARTS[-len(places) :], strict=False))
        if layer in parts:
            return f"{name}.{parts[layer]}.conv.{leaf}"
        if layer - 1 in parts:
            return f"{name}.{parts[layer - 1]}.bn.{leaf}"
    raise WeightsError(f"an official ReXNet has no tensor called {key!r}")
