"""Batch norms of detectors, for small batches and pretrained statistics."""

from typing import Literal, final

from torch import Tensor, nn

from rexnet.training.freezing import choose_statistics, describe_norms, freeze_statistics, replace_module


@final
class AnyBatchNorm(nn.BatchNorm2d):
    """Batch norm of (B, C, H, W) that uses its running statistics, without updating them, if a batch has only one value
    per channel.

    nn.BatchNorm2d raises an error then, because one value has no variance. With one image per step, this affects every
    squeeze-excitation, whose norm follows global pooling, and the last map of SSDLite.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def accept_single_values(model: nn.Module) -> None:
    """Replace every nn.BatchNorm2d in `model` by an AnyBatchNorm with the same tensors."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.BatchNorm2d:
            norm = AnyBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum, device="meta")
            norm.weight, norm.bias = module.weight, module.bias
            for buffer_name, buffer in module.named_buffers():
                norm.register_buffer(buffer_name, buffer)
            replace_module(model, name, norm)


def prepare_norms(
    model: nn.Module, *, bn: Literal["auto", "train", "frozen"], pretrained: bool, images_per_batch: int
) -> str:
    """Freeze the statistics of the backbone's batch norms according to `bn`; return a log message.

    `bn` as in TransferConfig: auto freezes with pretrained weights and few images per process and batch. The detector's
    other layers, which are not pretrained, always use the statistics of each batch. Raise ValueError for "frozen"
    without pretrained weights.
    """
    frozen, reason = choose_statistics(bn, pretrained=pretrained, images_per_batch=images_per_batch)
    if frozen:
        freeze_statistics(model.get_submodule("backbone.body"))
    return describe_norms(model, reason)
