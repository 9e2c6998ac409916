"""Named networks: a table of rules, and `model_config`, which turns a name into a config."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import accumulate, repeat
from math import ceil
from typing import Any, TypedDict, Unpack

from rexnet.models.config import FILE_SUFFIXES, BlockSpec, NormConfig, RexNetConfig, read_config

STAGE_BLOCKS = (1, 2, 2, 3, 3, 5)
STAGE_STRIDES = (1, 2, 2, 2, 1, 2)
EXPAND_RATIO = 6
MAX_WIDTH = 5.0
"""Maximum width in a name; the widest published network has 3.0."""
PLAIN_CHANNELS = (96, 144, 192, 240, 288, 336, 384, 432, 480, 528, 576, 624, 1024)
PLAIN_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Rules of a family of networks; a width selects one network."""

    widths: tuple[float, ...]
    """Published widths; any other is possible."""
    first_channels: int = 16
    growth: int = 180
    """Channels of the last block minus those of the first at width 1.0, up to one step."""
    growth_over_all_blocks: bool = True
    """Divide the growth by the number of blocks (V1) instead of by one less (lite)."""
    depth: float = 1.0
    divisor: int = 1
    wide_divisor: int = 1
    """Divisor for widths from 3.0 on."""
    se_ratio: int = 12
    """Ratio of expanded channels to hidden channels of squeeze-excitation; 0 means no squeeze-excitation."""
    se_first_stage: int = 2
    activation: str = "silu"
    head_hidden_channels: int = 0
    narrow_penultimate: bool = True
    """Narrow the penultimate convolution with the width if that is below 1.0."""
    rounded_penultimate: bool = True
    """Round the penultimate convolution to a multiple of the divisor, like the blocks."""
    fixed_stem_and_penultimate: bool = False
    kernel_sizes: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    """One per stage."""


_V1_WIDTHS = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0, 2.2, 3.0)
FAMILIES = {
    "rexnet": Family(widths=_V1_WIDTHS),
    "rexnetr": Family(widths=_V1_WIDTHS, divisor=8, wide_divisor=16),
    "rexnet_lite": Family(
        widths=(1.0, 1.3, 1.5, 2.0),
        growth=164,
        growth_over_all_blocks=False,
        divisor=8,
        wide_divisor=8,
        se_ratio=0,
        activation="relu6",
        head_hidden_channels=1024,
        narrow_penultimate=False,
        rounded_penultimate=False,
    ),
}


def round_to_multiple(channels: float, divisor: int) -> int:
    """Return the nearest multiple of `divisor` that is at least `divisor` and at most 10 % below `channels`.

    Source: MobileNet's rule as used by ReXNet-lite and timm's rexnetr.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def linear_channels(
    *, first: float, growth: float, depth: int, growth_steps: int, width: float, divisor: int = 1
) -> list[int]:
    """Return the output channels of blocks that grow from `first` by `growth / growth_steps` per block, times `width`.

    Below width 1.0 the first block keeps its width. Source: paper section 4.2; clovaai/rexnet rexnetv1.py divides the
    growth by the number of blocks, rexnetv1_lite.py by one less and rounds to a multiple of 8.
    """
    start = first / width if width < 1.0 else first
    # Adding the step block by block, as the official code does, decides ties in round().
    line = accumulate(repeat(growth / growth_steps, depth - 1), initial=start)
    return [round_to_multiple(round(channels * width), divisor) for channels in line]


def _check_width(width: float, hint: str = "") -> None:
    if not 0.0 < width <= MAX_WIDTH:
        reason = ", where a network has 92 M parameters" if width > MAX_WIDTH else ""
        raise ValueError(f"width is {width:g}; allowed: above 0 and at most {MAX_WIDTH:g}{reason}{hint}")


def family_config(family: Family, width: float, **config: Any) -> RexNetConfig:
    """Return the network of `family` at `width`; `config` are further fields of RexNetConfig, `name` among them.

    Source: clovaai/rexnet rexnetv1.py and rexnetv1_lite.py; timm rexnet.py for the rounded channels.
    """
    _check_width(width)
    divisor = family.wide_divisor if width >= 3.0 else family.divisor
    keep_stem = width < 1.0 or family.fixed_stem_and_penultimate
    stem_channels = round_to_multiple(round(32 if keep_stem else 32 * width), divisor)
    if family.fixed_stem_and_penultimate:
        penultimate_width = 1.0
    else:
        penultimate_width = width if family.narrow_penultimate else max(width, 1.0)
    values: dict[str, Any] = {
        "blocks": tuple(_family_blocks(family, width, stem_channels=stem_channels, divisor=divisor)),
        "stem_channels": stem_channels,
        "activation": family.activation,
        "penultimate_channels": round_to_multiple(
            int(1280 * penultimate_width), divisor if family.rounded_penultimate else 1
        ),
        "head_hidden_channels": family.head_hidden_channels,
    }
    return RexNetConfig(**{**values, **config})


def _family_blocks(family: Family, width: float, *, stem_channels: int, divisor: int) -> Iterator[BlockSpec]:
    """Yield the blocks from the stem on."""
    stages = [
        (stage, stride if place == 0 else 1, kernel_size)
        for stage, (blocks, stride, kernel_size) in enumerate(
            zip(STAGE_BLOCKS, STAGE_STRIDES, family.kernel_sizes, strict=True)
        )
        for place in range(ceil(blocks * family.depth))
    ]
    depth = len(stages)
    channels = linear_channels(
        first=family.first_channels,
        growth=family.growth,
        depth=depth,
        growth_steps=depth if family.growth_over_all_blocks else depth - 1,
        width=width,
        divisor=divisor,
    )
    for in_channels, out_channels, (stage, stride, kernel_size) in zip(
        [stem_channels, *channels[:-1]], channels, stages, strict=True
    ):
        expanded = in_channels if stage == 0 else round_to_multiple(in_channels * EXPAND_RATIO, divisor)
        with_se = family.se_ratio and stage >= family.se_first_stage
        yield BlockSpec(
            in_channels=in_channels,
            expanded_channels=expanded,
            out_channels=out_channels,
            stride=stride,
            kernel_size=kernel_size,
            se_channels=round_to_multiple(expanded // family.se_ratio, divisor) if with_se else 0,
            shortcut=stride == 1 and in_channels <= out_channels,
            expand_activation=family.activation,
        )


def plain_config(**config: Any) -> RexNetConfig:
    """Return ReXNet (plain): MobileNetV1 with linear channels and SiLU after the 1x1 convolutions, no shortcuts.

    Source: the paper's supplement. Its diagram contradicts its own 3.4 M parameters and 0.56 G MACs; these numbers
    follow with 144 instead of 114 channels in block 1, MobileNetV1's strides and no 1280-channel convolution.
    """
    blocks = tuple(
        BlockSpec(
            in_channels=in_channels,
            expanded_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            out_activation="silu",
        )
        for in_channels, out_channels, stride in zip((32, *PLAIN_CHANNELS), PLAIN_CHANNELS, PLAIN_STRIDES, strict=False)
    )
    return RexNetConfig(**{"blocks": blocks, "activation": "relu6", "penultimate_channels": 0, **config})


def dilate(config: RexNetConfig, output_stride: int) -> RexNetConfig:
    """Return the config of the same weights at a finer output: blocks past `output_stride` dilate instead of striding.

    The block that loses its stride still sees an undilated grid; only later ones dilate. Shortcuts stay.
    """
    stride, dilation, blocks = config.stem_stride, 1, []
    for block in config.blocks:
        striding = stride * block.stride <= output_stride
        blocks.append(replace(block, stride=block.stride if striding else 1, dilation=dilation))
        stride, dilation = (stride * block.stride, dilation) if striding else (stride, dilation * block.stride)
    return replace(config, blocks=tuple(blocks))


def _width_name(family: str, width: float) -> str:
    _check_width(width)
    percent = round(width * 100, 6)
    return f"{family}_{percent:03.0f}" if percent == int(percent) else f"{family}_{percent:g}"


def list_models() -> list[str]:
    """Return the names of the published variants. Any other width up to 5 has a name too: rexnet_117 is 1.17."""
    by_width = [_width_name(family, width) for family, rules in FAMILIES.items() for width in rules.widths]
    return [*by_width, "rexnet_plain"]


class ConfigOptions(TypedDict, total=False):
    """Fields of RexNetConfig that a name does not determine, with their defaults."""

    stem_stride: int
    num_classes: int
    in_channels: int
    drop_rate: float
    drop_path_rate: float
    norm: NormConfig


class ModelOptions(ConfigOptions, total=False):
    """Options of `model_config`."""

    width: float | None
    output_stride: int


_FAMILY_AND_WIDTH = re.compile(rf"({'|'.join(FAMILIES)})(?:_(\d{{2,4}}(?:\.\d+)?))?")


def is_network_name(name: str) -> bool:
    """Return whether `name` is the name of a network, at a published width or any other: rexnet_100, rexnet_117."""
    match = _FAMILY_AND_WIDTH.fullmatch(name)
    return name == "rexnet_plain" or bool(match and match[2])


def model_config(
    name: str, *, width: float | None = None, output_stride: int = 32, **options: Unpack[ConfigOptions]
) -> RexNetConfig:
    """Return the config of a network.

    `name`: one of `list_models()`, any such as "rexnet_117", a family with `width`, as ("rexnet", width=1.17), or a
    file (the JSON of `rexnet search export`, or a checkpoint); `options` override the file.

    Families are rexnet, rexnetr and rexnet_lite. `stem_stride` 1 halves the network's stride, for images of 32 to 64
    pixels. `output_stride` (8, 16 or 32) limits the network's stride; further blocks dilate. Raise ValueError for other
    values.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {output_stride}; allowed: 8, 16, 32")
    match = _FAMILY_AND_WIDTH.fullmatch(name)
    if name.endswith(FILE_SUFFIXES):
        if width is not None:
            raise ValueError(
                f"model {name!r} takes its channels from the file; allowed: width with the name of a family"
            )
        made = replace(read_config(name), **options)
    elif name == "rexnet_plain" and width is None:
        made = plain_config(name=name, **options)
    elif match and (match[2] is None) != (width is None):
        if width is None:
            width = float(match[2]) / 100
            close = get_close_matches(name, list_models(), n=1)
            _check_width(width, f" ({name} is the width times 100" + (f"; did you mean {close[0]}?)" if close else ")"))
        full_name = _width_name(match[1], width)
        made = family_config(FAMILIES[match[1]], width, name=full_name, **options)
    elif match or name == "rexnet_plain":
        if width is None:
            problem = 'needs a width, such as "rexnet_117" or width=1.17'
        else:
            problem = f"has its width in its name; for another width give the family, --model rexnet --width {width:g}"
        raise ValueError(f"model {name!r} {problem}")
    else:
        folder = " (but a folder: name a file in it, such as best.pt of a run)" if os.path.isdir(name) else ""
        close = get_close_matches(name, list_models(), n=1, cutoff=0.8)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"there is no model {name!r}{folder}; {hint}allowed: {', '.join(list_models())}, FILE.json")
    return dilate(made, output_stride)
