"""Networks whose output depends on the image, without training."""

import pytest
import torch
from torch import Tensor, nn

from rexnet.data.preprocess import Preprocess
from rexnet.engines.backends import is_installed
from rexnet.engines.config import Backend, Precision
from rexnet.engines.graph_files import sample_images
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.rexnet import RexNet


def need_engine(backend: Backend, precision: Precision = "fp32") -> None:
    """Skip a test of an engine that does not run on this machine."""
    if not is_installed(backend, precision):
        pytest.skip(f"{backend} does not compute in {precision} here")


def image_batch(size_px: int) -> Tensor:
    """Photographs and noise, float32 (5, 3, S, S)."""
    preprocess = Preprocess(image_size_px=size_px)
    return torch.stack([preprocess(image) for image in sample_images(None)])


def with_measured_statistics(model: nn.Module, *, size_px: int = 48) -> nn.Module:
    """Batch norms get the statistics of images, as training would leave them; in evaluation.

    Other statistics, whether the initial or random ones, make a deep network's output the same for any image, up to
    1e-6: a comparison of two such networks sees their last bias only.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    channels = next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        model.train()(image_batch(size_px).repeat(1, channels, 1, 1)[:, :channels])
    return model.eval()


def with_trained_norms(model: nn.Module) -> nn.Module:
    """Batch norms get scales and shifts as well, as a training might leave them, and then the statistics of images;
    in evaluation."""
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=random)
            module.bias.data.normal_(0.0, 0.3, generator=random)
    return with_measured_statistics(model)


def brightness_network() -> RexNet:
    """Built by hand: layers pass brightness on, class 0 is where it is bright, class 1 the opposite."""
    block = BlockSpec(in_channels=4, expanded_channels=4, out_channels=4, stride=2)
    config = RexNetConfig(
        name="brightness", blocks=(block, block), stem_channels=4, penultimate_channels=4, num_classes=2
    )
    model = RexNet(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        model.get_classifier().weight[1] *= -1
    return model
