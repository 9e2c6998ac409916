"""A trained classifier, from a checkpoint, an exported file or memory, ready to be opened in an engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from rexnet.data.transforms import Preprocess
from rexnet.deploy.exported_file import read_exported
from rexnet.engines.backends import FILE_BACKENDS, Backend, Engine, Network, Precision, open_graph, open_network
from rexnet.errors import WeightsError
from rexnet.models.rexnet import RexNet, RexNetConfig
from rexnet.training.checkpoint import load

_EXPORTED = (*FILE_BACKENDS, ".pt2")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """What the engines need to know."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    config: RexNetConfig
    backends: tuple[Backend, ...]
    """That can open it."""
    open: Callable[[Engine, torch.device], Network]
    """ValueError for an engine that is not installed or cannot open it, and for a device it does not run on."""
    pixels: bool = False
    """Its networks take uint8 (B, S, S, 3) instead of preprocessed images."""
    precision: Precision = "fp32"
    """What it is meant to be computed in."""
    kind: str = "checkpoint"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of an image as its networks take it."""
        side = self.preprocess.image_size_px
        return (side, side, 3) if self.pixels else (3, side, side)

    def sample(self, count: int) -> Tensor:
        """So many images of noise, as its networks take them; always the same."""
        random = torch.Generator().manual_seed(0)
        shape = (count, *self.image_shape)
        if self.pixels:
            return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        return torch.randn(shape, generator=random)


def of_model(model: RexNet, *, classes: Sequence[str], preprocess: Preprocess) -> Classifier:
    """`model` is left as it is. ValueError unless there is a name for each class."""
    if model.num_classes != len(classes):
        raise ValueError(f"{len(classes)} class names given for a model of {model.num_classes} classes")

    def opened(engine: Engine, device: torch.device) -> Network:
        return open_network(model, engine, device=device)

    return Classifier(
        classes=tuple(classes),
        preprocess=preprocess,
        config=model.config,
        backends=get_args(Backend),
        open=opened,
    )


def of_file(path: str | PathLike[str]) -> Classifier:
    """From a checkpoint (.pt, .safetensors) or a file of `rexnet export` (.onnx, .xml). Nothing in it is run.

    WeightsError, one sentence, for a file that cannot be used.
    """
    suffix = Path(path).suffix
    if suffix not in _EXPORTED:
        model = load(path)
        return of_model(model, classes=model.classes, preprocess=model.preprocess)
    exported = read_exported(path)
    if suffix not in FILE_BACKENDS:
        # Its reader in PyTorch unpickles what the archive holds and evaluates its expressions.
        raise WeightsError(
            f"{fspath(path)!r} can run code of its maker when PyTorch opens it; allowed: the checkpoint it was made "
            f"from, or the files {', '.join(FILE_BACKENDS)} of rexnet export"
        )
    if exported.output != "logits":
        raise WeightsError(f"{fspath(path)!r} puts out its {exported.output}; predictions need one with logits")

    def opened(engine: Engine, device: torch.device) -> Network:
        if engine.backend not in FILE_BACKENDS[suffix] or device.type != "cpu":
            allowed = " or ".join(FILE_BACKENDS[suffix])
            raise ValueError(f"{engine.backend} on {device} cannot open a {suffix} file; allowed: {allowed} on cpu")
        return open_graph(fspath(path), engine)

    return Classifier(
        classes=exported.classes or tuple(map(str, range(exported.config.num_classes))),
        preprocess=exported.preprocess,
        config=exported.config,
        backends=FILE_BACKENDS[suffix],
        open=opened,
        pixels=exported.pixels,
        precision="bf16" if exported.precision == "bf16" else "fp32",
        kind=f"{suffix} {exported.precision}",
    )
