"""What `rexnet bench` can measure: networks of ours, checkpoints, exported files, networks of timm."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from rexnet.deploy.exported_file import read_exported
from rexnet.engines.backends import FILE_BACKENDS, Backend, Engine, Network, open_graph, open_network
from rexnet.engines.graph_files import traced
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model, means_model_folder
from rexnet.training.checkpoint import load

TIMM = "timm/"


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


def find_subject(name: str) -> Subject:
    """From a name of ours, FILE.pt, FILE.safetensors, FILE.onnx, FILE.xml, a model folder or timm/NAME. ValueError for
    what is none."""
    if name.startswith(TIMM):
        return _timm_subject(name)
    ending = Path(name).suffix
    if ending in FILE_BACKENDS:
        facts = read_exported(name)
        return Subject(
            name=name,
            model=RexNet(facts.config),
            image_size_px=facts.preprocess.image_size_px,
            open=lambda engine: open_graph(name, engine),
            backends=FILE_BACKENDS[ending],
            pixels=facts.pixels,
        )
    if ending in (".pt", ".safetensors") or means_model_folder(name):
        trained = load(name)
        return rexnet_subject(trained, name=name, image_size_px=trained.preprocess.image_size_px)
    return rexnet_subject(create_model(name), name=name)


def rexnet_subject(model: RexNet, *, name: str, image_size_px: int = 224) -> Subject:
    return Subject(name=name, model=model, image_size_px=image_size_px, open=lambda engine: open_network(model, engine))


def _timm_subject(name: str) -> Subject:
    import timm
    from timm.data.config import resolve_model_data_config

    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        raise ValueError(f"timm has no network {short!r}; timm.list_models() names those it has")
    model = timm.create_model(short).eval()
    size_px = resolve_model_data_config(model)["input_size"][-1]
    return Subject(name=name, model=model, image_size_px=size_px, open=lambda engine: _open_timm(model, engine))


def _open_timm(model: nn.Module, engine: Engine) -> Network:
    """The way its users do: eager or compiled as it is, or exported with a batch of any size."""
    if engine.backend in ("torch", "compile"):
        if engine.threads:
            torch.set_num_threads(engine.threads)
        return _eager(model, engine)
    return open_graph(exported_by_tracing(model), engine)


def _eager(model: nn.Module, engine: Engine) -> Network:
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    model = deepcopy(model).to(dtype)
    run: Any = torch.compile(model) if engine.backend == "compile" else model

    @torch.inference_mode()
    def network(images: Tensor) -> Tensor:
        return run(images.to(dtype)).float()

    return network


def exported_by_tracing(model: nn.Module, *, size_px: int = 224) -> bytes:
    """An ONNX file of any network: images (batch, 3, height, width), as far as its layers do not fix them."""
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    return traced(model, torch.randn(2, 3, size_px, size_px), opset=17, axes=axes, inputs=["images"])
