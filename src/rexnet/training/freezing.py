"""Freezing of whole layers and of batch-norm statistics for fine-tuning."""

from typing import Literal, final

from torch import Tensor, nn

from rexnet.errors import require
from rexnet.models.blocks import DropPath
from rexnet.models.config import STEM_LAYERS
from rexnet.models.rexnet import RexNet
from rexnet.training.config import TransferConfig

FEW_IMAGES = 16
"""Images per process and batch below which a batch's statistics are too noisy to replace the pretrained ones. Our
choice; the evidence is pytorch/vision#6543 and arXiv 1803.08494, figure 1, where errors rise below 16 images."""


@final
class FrozenBatchNorm(nn.Module):
    """Batch norm of (B, C, H, W) with fixed statistics in training and evaluation, with the state-dict keys of
    nn.BatchNorm2d. It is a separate class because `train()` would switch an nn.BatchNorm2d back to the statistics of
    each batch. Unlike in torchvision's FrozenBatchNorm2d, scale and shift are still trained. The norm's submodules,
    such as the activation in timm's norms, are still applied.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        for name, child in norm.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        for child in self.children():
            x = child(x)
        return x


def prepare(model: RexNet, config: TransferConfig, *, pretrained: bool, images_per_batch: int) -> str:
    """Freeze the layers and statistics that `config` selects; return a sentence that states them and the reason.

    Raise ValueError without pretrained weights, or if the model has fewer blocks than are to be frozen.
    """
    num_blocks = len(model.config.blocks)
    if config.freeze != "all":
        require(config.freeze <= num_blocks, "freeze", config.freeze, f"0 to {num_blocks} for {model.name}, or all")
    if config.freeze:
        _require_pretrained("freeze", config.freeze, allowed="0", pretrained=pretrained)
    norms_frozen, reason = choose_statistics(config.bn, pretrained=pretrained, images_per_batch=images_per_batch)
    freeze(model, config.freeze, statistics=norms_frozen)
    sentence = describe_norms(model, reason)
    if config.freeze:
        frozen = sum(not parameter.requires_grad for parameter in model.parameters())
        sentence += f"; frozen: {frozen} of {len(list(model.parameters()))} tensors of weights"
    return sentence


def _require_pretrained(option: str, value: object, *, allowed: str, pretrained: bool) -> None:
    # Freezing random layers or statistics is a mistake that would show only in the accuracy.
    require(pretrained, option, value, f"{allowed}, because without --weights nothing has been learned yet")


def choose_statistics(
    bn: Literal["auto", "train", "frozen"], *, pretrained: bool, images_per_batch: int
) -> tuple[bool, str]:
    """Return whether the batch norms keep their statistics, and the reason. Raise ValueError for "frozen" without
    weights."""
    if bn != "auto":
        if bn == "frozen":
            _require_pretrained("bn", bn, allowed="auto, train", pretrained=pretrained)
        return bn == "frozen", "as given"
    origin = "pretrained" if pretrained else "random"
    few = images_per_batch < FEW_IMAGES
    return pretrained and few, f"auto: {origin} weights, {images_per_batch} images per process and batch"


def describe_norms(model: nn.Module, reason: str) -> str:
    """Return a sentence with the numbers of batch norms with frozen and with batch statistics."""
    training = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    frozen = sum(isinstance(module, FrozenBatchNorm) for module in model.modules())
    return f"batch norms: {frozen} with frozen statistics, {training} with the statistics of each batch ({reason})"


def freeze_statistics(model: nn.Module) -> None:
    """Make every batch norm in `model` a FrozenBatchNorm; state-dict keys do not change."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            replace_module(model, name, FrozenBatchNorm(module))


def freeze(model: RexNet, depth: int | Literal["all"], *, statistics: bool) -> None:
    """Freeze the weights and statistics of the stem and the first `depth` blocks (nothing for 0), and turn off their
    drop path. With `statistics`, freeze the statistics of every batch norm in the network. State-dict keys do not
    change.
    """
    frozen_layers = len(model.config.blocks) + 2 if depth == "all" else depth + bool(depth)
    for name, parameter in model.named_parameters():
        if layer_number(model, name) < frozen_layers:
            parameter.requires_grad_(False)
    if statistics:
        freeze_statistics(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d | DropPath) and layer_number(model, name) < frozen_layers:
            frozen = FrozenBatchNorm(module) if isinstance(module, nn.BatchNorm2d) else nn.Identity()
            replace_module(model, name, frozen)


def layer_number(model: RexNet, name: str) -> int:
    """Return the layer number of the named parameter or module: 0 for the stem, 1 to N for the blocks, N + 1 for the
    penultimate convolution, N + 2 for everything after pooling."""
    num_blocks = len(model.config.blocks)
    part, _, rest = name.partition(".")
    if part != "features":
        return num_blocks + 2
    return min(max(int(rest.partition(".")[0]) - STEM_LAYERS + 1, 0), num_blocks + 1)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule `name` of `model` with `module`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
