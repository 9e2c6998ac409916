"""Recognition of a ReXNet by the names and shapes of a state dict's tensors."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from rexnet.errors import WeightsError
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.variants import FAMILIES, list_models, model_config

_BLOCK_WEIGHT = re.compile(r"features\.(\d+)\.out\.(\d+)\.weight")
_SE_WEIGHT = re.compile(r"features\.(\d+)\.out\.\d+\.fc\.0\.weight")
_PENULTIMATE_WEIGHT = re.compile(r"features\.(?!0\.)\d+\.weight")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Channels of a network; strides, dilation and activations leave no trace in a state dict."""

    in_channels: int
    num_classes: int
    """Classes; 0 without a classifier."""
    stem_channels: int
    blocks: tuple[tuple[int, int, int, int, int], ...]
    """Per block: in, expanded and out channels, kernel size, hidden channels of squeeze-excitation (0: none)."""
    penultimate_channels: int
    head_hidden_channels: int

    @property
    def network(self) -> "Layout":
        """Return the layout without image channels and classes, which may be adapted to the data."""
        return replace(self, in_channels=0, num_classes=0)

    @property
    def classifier_keys(self) -> tuple[str, ...]:
        layer = "output.4" if self.head_hidden_channels else "output.1"
        return (f"{layer}.weight", f"{layer}.bias") if self.num_classes else ()


def layout_of(state_dict: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a state dict with official keys. Raise WeightsError if it is not a ReXNet's."""
    stem = state_dict.get("features.0.weight")
    convolutions: dict[int, dict[int, Tensor]] = {}
    se_channels: dict[int, int] = {}
    penultimate_channels = 0
    for key, value in state_dict.items():
        if value.ndim != 4:
            continue
        if match := _BLOCK_WEIGHT.fullmatch(key):
            convolutions.setdefault(int(match[1]), {})[int(match[2])] = value
        elif match := _SE_WEIGHT.fullmatch(key):
            se_channels[int(match[1])] = value.shape[0]
        elif _PENULTIMATE_WEIGHT.fullmatch(key):
            penultimate_channels = value.shape[0]
    if stem is None or stem.ndim != 4 or any(len(found) not in (2, 3) for found in convolutions.values()):
        raise WeightsError(f"its first tensors are {', '.join(list(state_dict)[:3])}")
    blocks = []
    for layer, found in sorted(convolutions.items()):
        # A safetensors file has its tensors sorted by name, 10 before 2.
        *expand, depthwise, project = (found[place] for place in sorted(found))
        expanded = depthwise.shape[0]
        in_channels = expand[0].shape[1] if expand else expanded
        blocks.append((in_channels, expanded, project.shape[0], depthwise.shape[2], se_channels.get(layer, 0)))
    hidden = state_dict.get("output.0.weight")
    classifier = state_dict.get("output.1.weight" if hidden is None else "output.4.weight")
    return Layout(
        in_channels=stem.shape[1],
        num_classes=0 if classifier is None else classifier.shape[0],
        stem_channels=stem.shape[0],
        blocks=tuple(blocks),
        penultimate_channels=penultimate_channels,
        head_hidden_channels=0 if hidden is None else hidden.shape[0],
    )


def layout_of_config(config: RexNetConfig) -> Layout:
    """Return the layout of the network of `config`."""

    def numbers(block: BlockSpec) -> tuple[int, int, int, int, int]:
        return (block.in_channels, block.expanded_channels, block.out_channels, block.kernel_size, block.se_channels)

    return Layout(
        in_channels=config.in_channels,
        num_classes=config.num_classes,
        stem_channels=config.stem_channels,
        blocks=tuple(map(numbers, config.blocks)),
        penultimate_channels=config.penultimate_channels,
        head_hidden_channels=config.head_hidden_channels,
    )


def find_variant(layout: Layout) -> RexNetConfig | None:
    """Return the named network with this layout, at a published width or any other with two decimals; None if there is
    none."""
    # The penultimate width is truncated to an integer in some families and rounded to a multiple in others.
    ratio = layout.penultimate_channels / 1280
    widths = {round(ratio, 2), round(ratio + 0.5 / 1280, 2)} - {0.0}
    candidates = [model_config(name) for name in list_models()]
    candidates += [model_config(family, width=width) for family in FAMILIES for width in widths]
    if ratio == 1.0 and layout.blocks:
        candidates += _narrow_lite(last_channels=layout.blocks[-1][2])
    return next((config for config in candidates if layout_of_config(config).network == layout.network), None)


def _narrow_lite(*, last_channels: int) -> Iterator[RexNetConfig]:
    """Yield the ReXNet-lite networks below width 1.0 (where the penultimate convolution keeps its width) that may end
    in `last_channels`, nearest width first."""
    family = FAMILIES["rexnet_lite"]
    percent = round(100 * (last_channels - family.first_channels) / family.growth)
    # Half a divisor of the last channels is less than 3 percent of the growth.
    for difference in (0, -1, 1, -2, 2, -3, 3):
        if 0 < percent + difference < 100:
            yield model_config("rexnet_lite", width=(percent + difference) / 100)


def describe_layout(layout: Layout) -> str:
    """Return text for messages: "width 2.0 (rexnet_200)", or the numbers of a network that has no name."""
    config = find_variant(layout)
    if config is None:
        first, last = (layout.blocks[0][2], layout.blocks[-1][2]) if layout.blocks else (0, 0)
        se_blocks = sum(block[4] > 0 for block in layout.blocks)
        return (
            f"a network without a name (stem of {layout.stem_channels} channels, {len(layout.blocks)} blocks of "
            f"{first} to {last}, {se_blocks} with squeeze-excitation, end of {layout.penultimate_channels})"
        )
    percent = config.name.rpartition("_")[2]
    return f"width {float(percent) / 100:.2f} ({config.name})" if percent[0].isdigit() else config.name
