"""`rexnet study advise` and `rexnet study rewrite`: from a network's name to the report."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rexnet.errors import require
from rexnet.files import check_output_folder, write_whole
from rexnet.models.config_files import config_text
from rexnet.study.layers import load_network
from rexnet.study.principles.advice import Advice, Limits, advise
from rexnet.study.principles.rewriting import Rewriting, rewrite


@dataclass(frozen=True, kw_only=True)
class _KnownNetwork:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A checkpoint, a folder of rexnet card, a name such as rexnet_100, a file of rexnet search export, timm/resnet50
    or torchvision/vgg16_bn, module:factory, or rewritten/ before any of these."""
    image_size: int | None = None
    """Side in pixels; None: what the network was made for, else 224."""

    def __post_init__(self) -> None:
        require(self.image_size is None or self.image_size >= 8, "image_size", self.image_size, "8 or more, or None")


@dataclass(frozen=True, kw_only=True)
class AdviceConfig(_KnownNetwork):
    """List the layers of a network that break the paper's design principles; the exit code is 1 where there are any."""

    format: Literal["table", "json"] = "table"
    """A table for people, or JSON for programs."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class RewriteConfig(_KnownNetwork):
    """Rewrite a network by the paper's design principles at equal multiply-accumulates, and list the changes with their
    reasons."""

    output: str | None = None
    """Folder, made where it is missing, for report.json and, of a network that becomes a list of blocks,
    config.json."""


def advise_on(config: AdviceConfig) -> Advice:
    """Load the network and advise on it."""
    model, preprocess = load_network(config.model, image_size=config.image_size)
    return advise(model, image_size_px=preprocess.image_size_px, limits=config.limits)


def rewrite_known(config: RewriteConfig) -> Rewriting:
    """Rewrite the network and write report.json and config.json into the folder of --output, where there is one."""
    folder = None if config.output is None else Path(config.output)
    if folder is not None:
        check_output_folder(folder, allowed="a folder")
    model, preprocess = load_network(config.model, image_size=config.image_size)
    _, report = rewrite(model, image_size_px=preprocess.image_size_px)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model": config.model, **report.to_dict()}
        write_whole(folder / "report.json", json.dumps(values, indent=2) + "\n")
        if report.config is not None:
            write_whole(folder / "config.json", config_text(report.config))
    return report
