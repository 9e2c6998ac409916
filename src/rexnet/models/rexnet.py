"""Network: a stem, a list of blocks, a wide 1x1 convolution and a classifier, built from a RexNetConfig."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rexnet.models.blocks import BlockConv2d, LinearBottleneck, PooledConv2d, conv_norm_activation, make_activation
from rexnet.models.config import FeatureLevel, RexNetConfig, feature_levels

GLOBAL_POOLS = ("avg", "max", "")


def _statistics_once(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts of the forward pass and of its recomputation; the latter does not update batch-norm statistics
    again."""
    return nullcontext(), _running_statistics_off(block)


@contextmanager
def _running_statistics_off(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        # Momentum 0 and not track_running_stats: recomputation must save the same number of tensors.
        norm.momentum = 0.0
        norm.num_batches_tracked = count.clone() if count is not None else None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


class RexNet(nn.Module):
    """Network from images (B, in_channels, H, W) to logits (B, num_classes), for any H and W and any batch size.

    State-dict keys and their order are those of the official files. Methods follow timm's, so that a RexNet can replace
    a timm model. Source: paper section 4.2; clovaai/rexnet rexnetv1.py and rexnetv1_lite.py.
    """

    # torch.jit.script compiles every other property.
    __jit_unused_properties__ = ("config", "name", "num_classes", "feature_info", "level_of_stride")

    def __init__(self, config: RexNetConfig):
        super().__init__()
        self._config = config
        self.grad_checkpointing = False
        self.global_pool = "avg"
        stem = nn.Conv2d(config.in_channels, config.stem_channels, 3, config.stem_stride, padding=1, bias=False)
        layers = conv_norm_activation(stem, norm=config.norm, activation=config.activation)
        last = max(len(config.blocks) - 1, 1)
        layers += [
            LinearBottleneck(block, norm=config.norm, drop_path_rate=config.drop_path_rate * index / last)
            for index, block in enumerate(config.blocks)
        ]
        self.num_features = config.penultimate_channels or config.blocks[-1].out_channels
        if config.penultimate_channels:
            penultimate = BlockConv2d(config.blocks[-1].out_channels, self.num_features)
            layers += conv_norm_activation(penultimate, norm=config.norm, activation=config.activation)
        self.num_feature_layers = len(layers)
        self.features = nn.Sequential(*layers)
        self.feature_levels = feature_levels(config)
        self.head_hidden_size = config.head_hidden_channels or self.num_features
        self.output = nn.Sequential()
        if config.head_hidden_channels:
            self.output.append(PooledConv2d(self.num_features, self.head_hidden_size))
            self.output.append(
                nn.BatchNorm2d(self.head_hidden_size, momentum=config.norm.momentum, eps=config.norm.eps)
            )
            self.output.append(make_activation(config.activation))
        self.output.append(nn.Dropout(config.drop_rate))
        self.output.append(self._make_classifier(config.num_classes))

    @property
    def config(self) -> RexNetConfig:
        """Current config of the network: `num_classes` follows a replaced classifier."""
        return replace(self._config, num_classes=self.num_classes)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def num_classes(self) -> int:
        return getattr(self.get_classifier(), "out_channels", 0)

    @property
    def level_of_stride(self) -> dict[int, FeatureLevel]:
        """Return the last level of each stride; with dilation, several levels share one."""
        return {level.stride: level for level in self.feature_levels}

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Describe, as timm does, the narrow feature maps: channels, stride, module name."""
        return [
            {"num_chs": level.channels, "reduction": level.stride, "module": f"features.{level.layer}"}
            for level in self.feature_levels
        ]

    def _make_classifier(self, num_classes: int) -> nn.Module:
        return PooledConv2d(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the last layer: a 1x1 convolution with `num_classes` outputs, or the identity."""
        return self.output[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with a random one; 0 classes: none. `global_pool`: one of GLOBAL_POOLS, None
        (unchanged)."""
        if global_pool not in (None, *GLOBAL_POOLS):
            allowed = ", ".join(map(repr, GLOBAL_POOLS))
            raise ValueError(f"global_pool is {global_pool!r}; allowed: {allowed} (no pooling), None (unchanged)")
        if global_pool is not None:
            self.global_pool = global_pool
        self._config = replace(self._config, num_classes=num_classes)
        self.output[-1] = self._make_classifier(num_classes).to(next(self.features.parameters()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group layers as timm does for layer-wise learning rates."""
        return {"stem": r"^features\.[0-2]\.", "blocks": r"^features\.(\d+)\.out\.", "penultimate": r"^features\.\d+\."}

    def _run_layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training and isinstance(layer, LinearBottleneck):
            return checkpoint(layer, x, use_reentrant=False, context_fn=partial(_statistics_once, layer))
        return layer(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features (B, num_features, H / stride, W / stride) of images (B, in_channels, H, W), before
        pooling."""
        for index, layer in enumerate(self.features):
            if index < self.num_feature_layers:
                x = layer(x) if torch.jit.is_scripting() else self._run_layer(layer, x)  # pyright: ignore[reportPrivateImportUsage]
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes) of features (B, num_features, h, w).

        With `pre_logits`, return the classifier's input, (B, head_hidden_size). With global_pool "", the spatial axes
        stay.
        """
        if self.global_pool == "avg":
            x = x.mean((2, 3), keepdim=True)
        elif self.global_pool == "max":
            x = x.amax((2, 3), keepdim=True)
        for index, layer in enumerate(self.output):
            if index < len(self.output) - int(pre_logits):
                x = layer(x)
        return x if self.global_pool == "" else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def feature_maps(
        self, x: Tensor, strides: Sequence[int] | None = None, *, expanded: bool = False
    ) -> dict[int, Tensor]:
        """Return maps by stride, {stride: (B, C, H / stride, W / stride)}: narrow block outputs, or expanded ones.

        `strides` None: all from 4 on. C is `channels` or `expanded_channels` of `feature_levels`. Raise ValueError for
        a stride the network does not have.
        """
        have = {level.stride: index for index, level in enumerate(self.feature_levels)}
        strides = [stride for stride in have if stride >= 4] if strides is None else strides
        if missing := [stride for stride in strides if stride not in have]:
            raise ValueError(f"{self.name} has no feature map of stride {missing[0]}; it has {list(have)}")
        indices = [have[stride] for stride in strides]
        maps = self.forward_intermediates(x, indices, stop_early=True, intermediates_only=True, expanded=expanded)
        return dict(zip(strides, maps, strict=True))

    def _level_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.feature_levels)
        wanted = list(range(count)) if indices is None else indices
        if isinstance(wanted, int):
            if not 1 <= wanted <= count:
                raise ValueError(f"{wanted} feature maps requested; {self.name} has {count}")
            wanted = range(count - wanted, count)
        for index in wanted:
            if not -count <= index < count:
                levels = ", ".join(f"{i} (stride {level.stride})" for i, level in enumerate(self.feature_levels))
                raise ValueError(f"{self.name} has no feature map {index}; it has {levels}")
        return [index % count for index in wanted]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        *,
        expanded: bool = False,
    ) -> Any:
        """Return feature maps by level index, in the order of `indices`; timm's signature, `norm` has no effect.

        `indices`: a list (negative counts from the coarsest), an int for the last n, None for all. Return the list of
        maps, or, without `intermediates_only`, (final features, list).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; allowed: 'NCHW'")
        wanted = self._level_indices(indices)
        level_of_layer = {level.layer: index for index, level in enumerate(self.feature_levels)}
        last_level = len(self.feature_levels) - 1
        maps: dict[int, Tensor] = {}
        for index, layer in enumerate(islice(self.features, self.num_feature_layers)):
            leaves = level_of_layer.get(index - 1)
            if expanded and leaves is not None and leaves != last_level and isinstance(layer, LinearBottleneck):
                maps[leaves] = layer.expand(x)
                x = layer.condense(maps[leaves], x)
            else:
                x = self._run_layer(layer, x)
            level = level_of_layer.get(index)
            if level is not None and not expanded:
                maps[level] = x
            # The final features still need the penultimate convolution after the last map.
            if stop_early and maps.keys() >= set(wanted) and (intermediates_only or last_level not in wanted):
                break
        if expanded:
            maps[last_level] = x
        taken = [maps[level] for level in wanted]
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = None, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers after the maps `indices`, and the head, which no longer fits; return the indices from 0. As
        in timm, everything stays if the last map, the head and the norm are all kept."""
        wanted = self._level_indices(indices)
        last = max(wanted)
        if not (prune_head or prune_norm) and last == len(self.feature_levels) - 1:
            return wanted
        level = self.feature_levels[last]
        self.num_feature_layers = level.layer + 1
        self.features = self.features[: self.num_feature_layers]
        self.feature_levels = (*self.feature_levels[:last], replace(level, expanded_channels=level.channels))
        self.num_features = self.head_hidden_size = level.channels
        self.output = self.output[-2:]
        self.reset_classifier(0, "")
        return wanted
