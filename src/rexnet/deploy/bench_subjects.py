"""What `rexnet bench` can measure: whatever a MODEL names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from rexnet.deploy.exported_file import read_exported
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.engines.backends import FILE_BACKENDS, Backend, Engine, Network, open_graph, open_network
from rexnet.errors import WeightsError
from rexnet.loading import load_network
from rexnet.models.rexnet import RexNet
from rexnet.references import PRETRAINED, Kind, Reference, resolve


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network by the name the user gave it, not yet in an engine."""

    name: str
    model: nn.Module
    """Its layers, for counting; of a file that holds a graph, the network it was made from, with other weights."""
    image_size_px: int
    """The side of the images it is meant for."""
    open: Callable[[Engine], Network]
    backends: tuple[Backend, ...] = get_args(Backend)
    """Those that can run it."""
    pixels: bool = False
    """It takes uint8 (B, H, W, 3)."""

    def images(self, batch: int, size_px: int) -> Tensor:
        """Random ones, as the network takes them."""
        if self.pixels:
            return torch.randint(256, (batch, size_px, size_px, 3), dtype=torch.uint8)
        return torch.randn(batch, getattr(getattr(self.model, "config", None), "in_channels", 3), size_px, size_px)


BENCHABLE: tuple[Kind, ...] = (*PRETRAINED, "exported", "config")


def find_subject(name: str) -> Subject:
    """Return what MODEL `name` names; a network by its name has random weights, which are as fast as others."""
    reference = resolve(name, allowed=BENCHABLE)
    if reference.kind == "exported":
        return _exported_subject(reference)
    model = load_network(reference)
    if isinstance(model, TrainedDetector):
        raise WeightsError(f"{name!r} holds a detector; allowed: classifiers and networks")
    return network_subject(model, name=name, image_size_px=model.preprocess.image_size_px)


def network_subject(model: nn.Module, *, name: str, image_size_px: int = 224) -> Subject:
    return Subject(name=name, model=model, image_size_px=image_size_px, open=lambda engine: open_network(model, engine))


def _exported_subject(reference: Reference) -> Subject:
    facts = read_exported(reference.path)
    suffix = reference.path.suffix
    if suffix not in FILE_BACKENDS:
        raise WeightsError(f"{reference.text!r} runs in none of the engines here; allowed: {', '.join(FILE_BACKENDS)}")
    return Subject(
        name=reference.text,
        model=load_network(resolve(facts.config)) if isinstance(facts.config, str) else RexNet(facts.config),
        image_size_px=facts.preprocess.image_size_px,
        open=lambda engine: open_graph(reference.text, engine),
        backends=FILE_BACKENDS[suffix],
        pixels=facts.pixels,
    )
