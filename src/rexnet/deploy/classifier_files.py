"""A trained classifier, from a file or memory, ready to be opened in an engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.exported_file import read_exported
from rexnet.engines.backends import Network, open_graph, open_network
from rexnet.engines.config import FILE_BACKENDS, Backend, Engine, Precision
from rexnet.errors import WeightsError
from rexnet.models.config import RexNetConfig
from rexnet.models.rexnet import RexNet


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Everything that the engines need to know."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    config: RexNetConfig | str
    """Of a network that is not a RexNet, its layers as text."""
    backends: tuple[Backend, ...]
    """That can open it."""
    open: Callable[[Engine, torch.device], Network]
    """ValueError for an engine that is not installed or cannot open it, and for a device it does not run on."""
    pixels: bool = False
    """Its networks take uint8 (B, S, S, 3) instead of preprocessed images."""
    precision: Precision = "fp32"
    """The one to compute in unless another is asked for."""
    int8: bool = False
    """A file of `rexnet quantize`, whose probabilities differ by a little in every engine."""
    kind: str = "checkpoint"
    model: nn.Module | None = None
    """Its layers; None for a graph."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image as its networks take it."""
        side = self.preprocess.image_size_px
        return (side, side, 3) if self.pixels else (3, side, side)

    def sample(self, count: int) -> Tensor:
        """Return `count` images of noise, as its networks take them; always the same."""
        random = torch.Generator().manual_seed(0)
        shape = (count, *self.image_shape)
        if self.pixels:
            return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        return torch.randn(shape, generator=random)


def of_model(
    model: nn.Module, *, classes: Sequence[str] | None = None, preprocess: Preprocess | None = None
) -> Classifier:
    """Return the classifier of a network in memory, which is left as it is. `classes` and `preprocess` None: those that
    `rexnet.load` gave it. ValueError unless there is a name for each class."""
    found: Any = getattr(model, "classes", None) if classes is None else classes
    preprocess = getattr(model, "preprocess", None) if preprocess is None else preprocess
    if found is None or preprocess is None:
        raise ValueError("the network does not hold its classes and preprocess, as one of rexnet.load does; give both")
    if (count := getattr(model, "num_classes", len(found))) != len(found):
        raise ValueError(f"{len(found)} class names given for a model of {count} classes")

    def opened(engine: Engine, device: torch.device) -> Network:
        return open_network(model, engine, device=device, size_px=preprocess.image_size_px)

    return Classifier(
        classes=tuple(found),
        preprocess=preprocess,
        config=model.config if isinstance(model, RexNet) else str(model),
        backends=get_args(Backend),
        open=opened,
        model=model,
    )


def of_exported(path: str | PathLike[str]) -> Classifier:
    """Return the classifier in a .onnx or .xml file of `rexnet export`. Nothing in it is run.

    WeightsError, one sentence, for a file that cannot be used.
    """
    suffix = Path(path).suffix
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
        exported.refuse_wrong(engine.backend, path)
        if device.type != "cpu":
            raise WeightsError(f"{engine.backend} runs {suffix} files on the CPU, and the device is {device}")
        return open_graph(fspath(path), engine)

    return Classifier(
        classes=exported.classes or tuple(map(str, range(exported.num_classes))),
        preprocess=exported.preprocess,
        config=exported.config,
        backends=exported.backends(suffix),
        open=opened,
        pixels=exported.pixels,
        int8=exported.precision == "int8",
        precision="bf16" if exported.precision == "bf16" else "fp32",
        kind=f"{suffix} {exported.precision}",
    )
