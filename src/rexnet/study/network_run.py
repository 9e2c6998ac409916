"""`rexnet study rank --model`: from a network's name and a folder of images to its table of layers."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from rexnet.data.decode import find_images, open_image
from rexnet.data.output_files import write_whole
from rexnet.data.transforms import Preprocess
from rexnet.models.layer_ranks import Layer, measure_layers
from rexnet.models.variants import create_model
from rexnet.study.figures import draw_layers
from rexnet.study.networks import call_factory
from rexnet.training import checkpoint
from rexnet.training.distributed import choose_device

TIMM = "timm/"
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network is measured in place of random ones, and on what."""

    model: str | None = None
    """Measure this network layer by layer in place of random ones: a checkpoint, a name such as rexnet_100 or
    timm/resnet50 (random weights unless --pretrained), or module:factory."""
    pretrained: bool = False
    """Published weights for a network that is given by name; timm's are downloaded unless they are at hand."""
    data: str | None = None
    """Folder of images for --model, read with all sub-folders."""
    images: int = 64
    """How many of them, evenly spread over the folder."""
    image_size: int | None = None
    """Side in pixels; None: what the network was made for, else 224."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; of --model."""

    def __post_init__(self) -> None:
        if self.model is None:
            for name in ("data", "image_size"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise ValueError(
                        f"--{option} is {getattr(self, name)}, but random networks see no images; "
                        "allowed: with --model only"
                    )
        elif self.data is None:
            raise ValueError(f"--model is {self.model}, but --data is None; allowed: a folder of images")
        if self.images < 1:
            raise ValueError(f"--images is {self.images}; allowed: 1 or more")
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"--image-size is {self.image_size}; allowed: 8 or more, or None")


def measure_network(options: NetworkOptions, *, tolerance: float, output: str | os.PathLike[str]) -> list[Layer]:
    """Measures, and writes layers.csv, spectra.json and layers.png and .svg into the folder `output`."""
    assert options.model is not None and options.data is not None
    device = choose_device(options.device)
    files = find_images([options.data])
    count = min(options.images, len(files))
    chosen = [files[index * len(files) // count] for index in range(count)]
    model, preprocess = load_network(options)
    layers = measure_layers(model.to(device), _batches(chosen, preprocess, device), tolerance=tolerance)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "layers.csv", layers_csv(layers))
    write_whole(folder / "spectra.json", json.dumps({layer.name: layer.spectrum for layer in layers}) + "\n")
    draw_layers(layers, folder / "layers")
    return layers


def load_network(options: NetworkOptions) -> tuple[nn.Module, Preprocess]:
    """The network and how its images are prepared; ValueError, one sentence, where there is none."""
    name, size = options.model or "", options.image_size
    if os.path.isfile(name):
        trained = checkpoint.load(name)
        return trained, replace(trained.preprocess, image_size_px=size or trained.preprocess.image_size_px)
    if name.startswith(TIMM):
        return _load_timm(name.removeprefix(TIMM), options)
    preprocess = Preprocess(image_size_px=size or 224)
    torch.manual_seed(0)
    if ":" in name:
        made = call_factory(name, allowed="a checkpoint, a network of rexnet models, timm/NAME")
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name!r} returns {type(made).__name__}; allowed: a torch.nn.Module")
        return made, preprocess
    if name.endswith((".pt", ".pth", ".safetensors")):
        raise ValueError(f"--model is {name!r}, and there is no such file")
    if not options.pretrained:
        return create_model(name), preprocess
    from rexnet.models.published import published_for

    tags = [row.name for row in published_for(name)]
    if not tags:
        raise ValueError(f"--pretrained is asked for, but there are no published weights of {name}")
    return create_model(name, weights=tags[0]), preprocess


def _load_timm(name: str, options: NetworkOptions) -> tuple[nn.Module, Preprocess]:
    import timm
    from timm.data.config import resolve_data_config
    from timm.models import is_model

    if not is_model(name):
        raise ValueError(f"--model is 'timm/{name}'; timm has no network of that name")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=options.pretrained)
    config = resolve_data_config({}, model=model)
    return model, Preprocess(
        image_size_px=options.image_size or config["input_size"][-1],
        crop_ratio=config["crop_pct"],
        mean=config["mean"],
        std=config["std"],
    )


def _batches(files: Sequence[Path], preprocess: Preprocess, device: torch.device) -> Iterator[Tensor]:
    remaining = iter(files)
    while chunk := list(islice(remaining, _BATCH)):
        yield torch.stack([preprocess(open_image(file)) for file in chunk]).to(device)


def layers_csv(layers: Sequence[Layer]) -> str:
    names = ("name", "kind", "in_channels", "out_channels", "ratio", "samples", "rank", "rank_ratio", "effective_rank")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "stable_rank", "nuclear_norm"])
    for layer in layers:
        figures = (layer.rank_ratio, layer.effective_rank, layer.stable_rank, layer.nuclear_norm)
        head = (layer.name, layer.kind, layer.in_channels, layer.out_channels, f"{layer.ratio:.6g}", layer.samples)
        writer.writerow([*head, layer.rank, *(f"{figure:.6g}" for figure in figures)])
    return text.getvalue()
