"""Chains of depthwise blocks, such as MobileNetV1 and V2, read as lists of BlockSpec and changed by the rules."""

from dataclasses import replace

import torch
from torch import nn

from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.cost import Cost, measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.study.principles.graph import NONE, Bottleneck, Operation, Trace, find_bottlenecks, layer_of

GREATEST_PENULTIMATE_GAIN = 2.0
"""Maximum factor by which the penultimate convolution is widened; our choice, since the paper states no number."""


def read_chain(model: nn.Module, trace: Trace, image_size_px: int) -> RexNetConfig | None:
    """Read the network's graph and shapes as a config; None if it is not a plain chain of such blocks.

    A chain consists of a stem, blocks, an optional 1x1 convolution and the classifier, and the config has
    exactly the network's multiply-accumulates.
    """
    layers = [operation for operation, _ in trace.layers()]
    blocks = list(find_bottlenecks(trace))
    inside = [part for block in blocks for part in (block.expand, block.depthwise, block.project) if part]
    rest = [operation for operation in layers if operation not in inside]
    if not blocks or len(rest) not in (2, 3) or len(layers) != len(inside) + len(rest):
        return None
    stem, *penultimate, classifier = rest
    if not classifier.pooled or layer_of(stem).kernel_size != 3 or not all(each.pointwise for each in penultimate):
        return None
    try:
        config = RexNetConfig(
            name="chain",
            blocks=_specs(trace, blocks),
            stem_channels=layer_of(stem).out_channels,
            stem_stride=layer_of(stem).stride,
            activation=_activation(trace, stem),
            penultimate_channels=layer_of(penultimate[0]).out_channels if penultimate else 0,
            in_channels=layer_of(stem).in_channels,
            num_classes=layer_of(classifier).out_channels,
            drop_rate=max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0.0),
        )
    except ValueError:  # raised for shapes or activations that a RexNet cannot have
        return None
    return config if chain_cost(config, image_size_px).macs == trace.macs() else None


def _specs(trace: Trace, blocks: list[Bottleneck]) -> tuple[BlockSpec, ...]:
    sums = any(operation.role == "sum" for operation in trace.operations)
    specs = []
    for block in blocks:
        depthwise = layer_of(block.depthwise)
        specs.append(
            BlockSpec(
                in_channels=block.in_channels,
                expanded_channels=depthwise.out_channels,
                out_channels=block.out_channels,
                stride=depthwise.stride,
                kernel_size=depthwise.kernel_size,
                shortcut=sums and depthwise.stride == 1 and block.in_channels == block.out_channels,
                expand_activation=_activation(trace, block.expand) if block.expand else BlockSpec.expand_activation,
                depthwise_activation=_activation(trace, block.depthwise),
                out_activation=_activation(trace, block.project),
            )
        )
    return tuple(specs)


def _activation(trace: Trace, operation: Operation) -> str:
    word = trace.activation_after(operation)
    return "identity" if word == NONE else word


def chain_cost(config: RexNetConfig, image_size_px: int) -> Cost:
    with torch.device("meta"):
        return measure_cost(RexNet(config), image_size_px, config.in_channels)


def apply_rules(chain: RexNetConfig, step: float) -> RexNetConfig:
    """Return the chain with output channels that grow by `step` from block to block, and its original stem, strides,
    kernels and expansions. With expansions (MobileNetV2) the channels begin at the first block's width; SiLU follows
    stem, expansions and penultimate. Without (MobileNetV1) they begin at two steps, and the last block keeps its width,
    the classifier's input; SiLU follows the 1x1 convolutions only. Source: paper section 4.2; its supplement for ReXNet
    (plain).
    """
    separable = all(block.expanded_channels == block.in_channels for block in chain.blocks)
    last = len(chain.blocks) - 1
    shortcuts = any(block.shortcut for block in chain.blocks)
    in_channels, blocks = chain.stem_channels, []
    for place, block in enumerate(chain.blocks):
        if separable:
            out_channels = block.out_channels if place == last else round(step * (place + 2))
        else:
            out_channels = round(chain.blocks[0].out_channels + step * place)
        blocks.append(
            replace(
                block,
                in_channels=in_channels,
                expanded_channels=round(in_channels * block.expanded_channels / block.in_channels),
                out_channels=max(1, out_channels),
                shortcut=shortcuts and block.stride == 1 and in_channels <= out_channels,
                expand_activation="silu",
                out_activation="silu" if block.out_activation != "identity" else "identity",
            )
        )
        in_channels = blocks[-1].out_channels
    activation = chain.activation if separable else "silu"
    return replace(chain, blocks=tuple(blocks), activation=activation)


def widen_penultimate(config: RexNetConfig, parameters: int, image_size_px: int) -> RexNetConfig:
    """Widen the penultimate convolution until the network has that many parameters, at most GREATEST_PENULTIMATE_GAIN
    times. At equal multiply-accumulates, linear channels need fewer parameters, since the last blocks are narrower.
    """
    before = config.penultimate_channels
    if not before:
        return config
    missing = parameters - chain_cost(config, image_size_px).parameters
    # Parameters of a channel: a row of weights, two of its batch norm and a column of the classifier.
    more = round(missing / (config.blocks[-1].out_channels + 2 + config.num_classes))
    return replace(
        config, penultimate_channels=min(max(before, before + more), round(GREATEST_PENULTIMATE_GAIN * before))
    )
