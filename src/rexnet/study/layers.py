"""`rexnet study rank --model`: the ranks of a given network, layer by layer."""

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rexnet import loading
from rexnet.data.datasets import open_images
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import EvalBatches
from rexnet.data.preprocess import Preprocess
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.figures import write_figure
from rexnet.files import write_whole
from rexnet.ranks.layer_ranks import Layer, measure_layers
from rexnet.references import KINDS, MEASURABLE, resolve
from rexnet.study.config import NetworkOptions
from rexnet.study.networks import call_factory
from rexnet.study.principles.rewriting import rewrite
from rexnet.text import csv_text, quantity
from rexnet.training.distributed import choose_device

logger = logging.getLogger(__name__)


def measure_network(options: NetworkOptions, *, tolerance: float, output: str | os.PathLike[str]) -> list[Layer]:
    """Measure the layers, and write layers.csv, spectra.json, layers.png and layers.svg to the folder `output`."""
    assert options.model is not None and options.data is not None
    device = choose_device(options.device)
    images = evenly_spread(open_images(options.data), options.images)
    model, preprocess = load_network(options.model, pretrained=options.pretrained, image_size=options.image_size)
    layers = measure_layers(model.to(device), read_batches(images, preprocess, device=device), tolerance=tolerance)
    if limited := [layer for layer in layers if layer.lacks_samples]:
        logger.warning(
            "%d of %s have fewer samples (images x positions) than channels, which limits rank; --images %d suffices",
            len(limited),
            quantity(len(layers), "layer"),
            max(math.ceil(len(images) * layer.out_channels / layer.samples) for layer in limited),
        )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "layers.csv", layers_csv(layers))
    write_whole(folder / "spectra.json", json.dumps({layer.name: layer.spectrum for layer in layers}) + "\n")
    plot_layers(layers, folder / "layers")
    return layers


def load_network(name: str, *, pretrained: bool = False, image_size: int | None = None) -> tuple[nn.Module, Preprocess]:
    """Return the network and the preprocessing of its images. Raise ValueError if there is none. `name` is a `model` of
    NetworkOptions; the prefix rewritten/ applies the paper's design principles to the network.
    """
    reference = resolve(name, allowed=MEASURABLE)
    torch.manual_seed(0)
    if reference.kind == "rewritten":
        return _load_rewritten(reference.name, pretrained, image_size)
    if reference.kind == "factory":
        made = call_factory(name, allowed=", ".join(KINDS[kind] for kind in MEASURABLE))
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name!r} returns {type(made).__name__}; allowed: a torch.nn.Module")
        return made, Preprocess(image_size_px=image_size or 224)
    model = loading.load_network(reference, pretrained=pretrained)
    if isinstance(model, TrainedDetector):
        raise ValueError(f"{name!r} is a detector; allowed: classifiers")
    return model, replace(model.preprocess, image_size_px=image_size or model.preprocess.image_size_px)


def evenly_spread(images: ImageSet, count: int) -> ImageSet:
    """Return `count` of the images, evenly spread, or all if there are fewer."""
    count = min(count, len(images))
    return images.subset(np.arange(count) * len(images) // count)


def read_batches(
    images: ImageSet, preprocess: Preprocess, *, device: torch.device, batch_size: int = 16
) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) on the device, in order."""
    for batch in EvalBatches(images, preprocess, batch_size=batch_size):
        yield batch.images.to(device)


def _load_rewritten(name: str, pretrained: bool, image_size: int | None) -> tuple[nn.Module, Preprocess]:
    if pretrained:
        raise ValueError(f"--pretrained is True, but no weights fit a rewritten {name}; allowed: False")
    model, preprocess = load_network(name, image_size=image_size)
    torch.manual_seed(0)
    return rewrite(model, image_size_px=preprocess.image_size_px)[0], preprocess


def layers_csv(layers: Sequence[Layer]) -> str:
    """Return the layers as a table with a header."""
    names = ("name", "kind", "in_channels", "out_channels", "ratio", "samples", "rank", "rank_ratio", "effective_rank")
    rows: list[tuple[object, ...]] = [(*names, "stable_rank", "nuclear_norm")]
    for layer in layers:
        values = (layer.rank_ratio, layer.effective_rank, layer.stable_rank, layer.nuclear_norm)
        head = (layer.name, layer.kind, layer.in_channels, layer.out_channels, f"{layer.ratio:.6g}", layer.samples)
        rows.append((*head, layer.rank, *(f"{value:.6g}" for value in values)))
    return csv_text(rows)


def plot_layers(layers: Sequence[Layer], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot ranks over output channels by depth and the singular values of each layer, to STEM.png and STEM.svg."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.5), layout="constrained")
    ranks, spectra = figure.subplots(1, 2)
    places = range(len(layers))
    for name in ("rank_ratio", "effective_rank_ratio", "stable_rank_ratio"):
        label = name.removesuffix("_ratio").replace("_", " ")
        ranks.plot(places, [getattr(layer, name) for layer in layers], ".-", label=label, linewidth=1)
    ranks.plot(places, [min(1.0, layer.ratio) for layer in layers], ":", color="#555555", label="ratio (at most 1)")
    ranks.set_xlabel("layer, in order of execution")
    ranks.set_ylabel("over output channels")
    ranks.set_ylim(0, 1.02)
    ranks.grid(alpha=0.25)
    ranks.legend(fontsize=8)
    shades = matplotlib.colormaps["viridis"]
    for place, layer in enumerate(layers):
        values = [value / (layer.spectrum[0] or 1.0) for value in layer.spectrum]
        fractions = [(number + 1) / len(values) for number in range(len(values))]
        spectra.plot(fractions, values, color=shades(place / max(1, len(layers) - 1)), linewidth=0.8)
    spectra.set_yscale("log")
    spectra.set_ylim(1e-6, 1.3)
    spectra.set_xlabel("index of the singular value / number of values")
    spectra.set_ylabel("over the largest")
    spectra.set_title("first layer dark, last layer light", fontsize=9)
    spectra.grid(alpha=0.25)
    return write_figure(figure, stem)
