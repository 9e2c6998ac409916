"""`rexnet study spectra`: singular values of networks' final features."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from rexnet.data.datasets import open_images
from rexnet.data.preprocess import Preprocess
from rexnet.errors import require
from rexnet.figures import write_figure
from rexnet.files import write_whole
from rexnet.models.rexnet import RexNet
from rexnet.ranks.matrix_rank import effective_rank, nuclear_norm, singular_values, stable_rank
from rexnet.references import MEASURABLE, OWN_WEIGHTS, resolve
from rexnet.study.config import NetworkOptions, SpectraConfig
from rexnet.study.layers import evenly_spread, load_network, read_batches
from rexnet.study.published import PUBLISHED_SPECTRA
from rexnet.study.tables import make_folder
from rexnet.training.checkpoint import TrainedRexNet
from rexnet.training.distributed import choose_device

logger = logging.getLogger(__name__)

BATCH = 64
"""Images per batch, over which an untrained network's batch norms compute their statistics."""
_SMALLEST_SHOWN = 1e-7
"""Minimum singular value on the logarithmic axis."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values of an uncentred matrix of features with a row per image."""

    network: str
    trained: bool
    samples: int
    channels: int
    effective_rank: float
    stable_rank: float
    nuclear_norm: float
    values: list[float]
    """Singular values, largest first."""

    @property
    def label(self) -> str:
        """Name for tables and plots."""
        return self.network if self.trained else f"{self.network}, untrained"

    def quantile(self, fraction: float) -> float:
        """Return the quantile of the singular values at this fraction, relative to the largest."""
        place = max(0, math.ceil(fraction * len(self.values)) - 1)
        return self.values[::-1][place] / (self.values[0] or 1.0)


def is_trained(options: NetworkOptions) -> bool:
    """Return True if the weights are trained: those of a checkpoint, of a factory, or published ones."""
    kind = resolve(options.model or "", allowed=MEASURABLE).kind
    return kind in (*OWN_WEIGHTS, "published", "factory") or options.pretrained


def measure_spectra(config: SpectraConfig) -> list[Spectrum]:
    """Measure the spectra, and write spectra.json, figure.png and figure.svg to the folder."""
    if config.untrained_too:
        trained = any(is_trained(config.network(name)) for name in config.models)
        allowed = "only with --pretrained or a checkpoint; otherwise all networks are untrained"
        require(trained, "untrained_too", config.untrained_too, allowed)
    device, folder = choose_device(config.device), make_folder(config.output)
    images = evenly_spread(open_images(config.data), config.images)
    found = []
    for name, trained, model, preprocess in list(_networks(config)):
        logger.info("%s%s: features of %d images", name, "" if trained else ", untrained", len(images))

        def batches(preprocess: Preprocess = preprocess) -> Iterator[Tensor]:
            return read_batches(images, preprocess, device=device, batch_size=BATCH)

        model.to(device)
        if not trained:
            take_statistics(model, batches())
        found.append(spectrum_of(final_features(model, batches()), network=name, trained=trained))
    write_whole(folder / "spectra.json", json.dumps([asdict(spectrum) for spectrum in found]) + "\n")
    plot_spectra(found, folder / "figure")
    return found


def _networks(config: SpectraConfig) -> Iterator[tuple[str, bool, nn.Module, Preprocess]]:
    """Yield each network's name, whether it is trained, the network and the preprocessing of its images."""
    for name in config.models:
        options = config.network(name)
        path, trained = Path(name), is_trained(options)
        model, preprocess = load_network(name, pretrained=options.pretrained, image_size=options.image_size)
        short = f"{path.absolute().parent.name}/{path.name}" if path.is_file() else name
        yield short, trained, model, preprocess
        if config.untrained_too and isinstance(model, TrainedRexNet):
            torch.manual_seed(0)
            yield short, False, RexNet(model.config), preprocess
        elif config.untrained_too and options.pretrained and ":" not in name:
            yield name, False, load_network(name, image_size=options.image_size)[0], preprocess


@torch.no_grad()
def take_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give the batch norms of a network that was never trained the statistics of these images.

    With the initial ones, mean 0 and variance 1, signals fade from layer to layer until a SiLU is linear, and the
    spectrum differs from that of the network when its training starts.
    """
    # Squeeze-excitation has nothing to normalise in a batch of one.
    update_bn((images for images in batches if len(images) > 1), model)


@torch.inference_mode()
def final_features(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Return the input of the last Conv2d or Linear that runs, the classifier: (images, channels) in float32 on the
    CPU, averaged over positions if there are several. Images are (B, 3, H, W)."""
    training, features = model.training, []
    try:
        model.eval()
        with _last_input(model) as entered:
            for images in batches:
                model(images)
                features.append(_by_image(entered()).float().cpu())
    finally:
        model.train(training)
    return torch.cat(features)


def _by_image(values: Tensor) -> Tensor:
    """Return (B, C), from (B, C, H, W) or (B, tokens, C) where a classifier works on positions."""
    if values.ndim == 4:
        return values.mean((2, 3))
    return values.flatten(1, -2).mean(1) if values.ndim > 2 else values


@contextmanager
def _last_input(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that returns the input of the layer that ran last."""
    inputs: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs[:] = arguments[:1]

    def last() -> Tensor:
        if not inputs:
            raise ValueError("the network runs no Conv2d or Linear layer, so it has no classifier")
        return inputs.pop()

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()


def spectrum_of(features: Tensor, *, network: str, trained: bool) -> Spectrum:
    """Compute the singular values of (images, channels). Raise ValueError for features that are not finite."""
    values = singular_values(features)
    samples, channels = features.shape
    return Spectrum(
        network=network,
        trained=trained,
        samples=samples,
        channels=channels,
        effective_rank=float(effective_rank(values)),
        stable_rank=float(stable_rank(values)),
        nuclear_norm=float(nuclear_norm(values)),
        values=values.tolist(),
    )


def plot_spectra(spectra: Sequence[Spectrum], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot the cumulative distribution of the singular values relative to the largest, to STEM.png and STEM.svg; dashed
    for untrained networks, hollow marks for the paper's values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 5.0), layout="constrained")
    panel = figure.subplots()
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(one.network for one in spectra))}
    for one in spectra:
        values = [max(value / (one.values[0] or 1.0), _SMALLEST_SHOWN) for value in reversed(one.values)]
        fractions = [(number + 1) / len(values) for number in range(len(values))]
        style = "-" if one.trained else "--"
        label = f"{one.label} (effective rank {one.effective_rank:.0f} of {one.channels})"
        panel.plot(values, fractions, style, color=colours[one.network], label=label, linewidth=1.4)
    for mark, (name, points) in zip("os", PUBLISHED_SPECTRA.items(), strict=True):
        label = f"published, {name} on ImageNet"
        panel.plot(list(points.values()), list(points), mark, color="#555555", fillstyle="none", label=label)
    panel.set_xscale("log")
    panel.set_xlabel("singular value of the final features / largest")
    panel.set_ylabel("fraction of singular values up to it")
    panel.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return write_figure(figure, stem)
