"""Singular values of the final features of ReXNet and MobileNetV2, trained alike on CIFAR-10 and at initialisation.

Both have stem stride 1 and the same multiply-accumulates. MobileNetV2 is a list of blocks to the project's network, so
that both go through `rexnet train`'s loop, recipe and order of images. Runs go on where they were stopped.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

import records
from control import rexnet_width
from rexnet.data.output_files import write_whole
from rexnet.models.blocks import BlockSpec
from rexnet.models.channels import round_to_multiple
from rexnet.models.config_files import config_text
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet, RexNetConfig
from rexnet.models.variants import model_config
from rexnet.study.spectra import SpectraConfig, measure_spectra
from rexnet.training.classify import train
from rexnet.training.recipes import small_image
from rexnet.training.run_folder import RunFolder

NAME = "spectra"
FIGURE = Path(__file__).parent.parent / "docs/images/spectra.png"
IMAGE_PX = 32
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2 (arXiv 1801.04381, table 2): expansion, output channels, blocks, stride of the first."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/spectra.py cifar` with the folder that holds CIFAR-10's train/ and test/."""

    data: Annotated[Path, tyro.conf.Positional]
    width: float = 0.75
    """Of MobileNetV2."""
    epochs: int = 2
    shots: int = 1200
    """Training images of each class."""
    images: int = 2000
    """Test images whose features are measured."""
    threads: int = 1
    output: str = "runs/spectra"


def mobilenet_v2(width: float) -> RexNetConfig:
    """ReLU6 everywhere, shortcuts where a block keeps stride and channels."""
    channels = stem = round_to_multiple(32 * width, 8)
    blocks = []
    for expansion, stage_channels, count, first_stride in STAGES:
        out_channels = round_to_multiple(stage_channels * width, 8)
        for stride in (first_stride, *[1] * (count - 1)):
            blocks.append(
                BlockSpec(
                    in_channels=channels,
                    expanded_channels=expansion * channels,
                    out_channels=out_channels,
                    stride=stride,
                    shortcut=stride == 1 and channels == out_channels,
                    expand_activation="relu6",
                )
            )
            channels = out_channels
    return RexNetConfig(
        name=f"mobilenetv2_x{width:g}", blocks=tuple(blocks), stem_channels=stem, stem_stride=1, activation="relu6"
    )


def macs(config: RexNetConfig) -> int:
    with torch.device("meta"):
        return measure_cost(RexNet(replace(config, num_classes=10)), IMAGE_PX).macs


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    mobilenet = mobilenet_v2(options.width)
    rexnet = model_config("rexnet", width=rexnet_width(macs(mobilenet)), stem_stride=1)
    recipe, top1 = small_image(), []
    for network in (rexnet, mobilenet):
        run = RunFolder(Path(options.output, network.name))
        file = Path(options.output, f"{network.name}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, config_text(network))
        config = replace(
            recipe,
            data=str(options.data),
            network=replace(recipe.network, model=str(file)),
            input=replace(recipe.input, shots=options.shots),
            schedule=replace(recipe.schedule, epochs=options.epochs),
            run=replace(recipe.run, device="cpu", threads=options.threads, output=str(run.path), resume=True),
        )
        train(config)
        top1.append(run.rows()[-1]["val_top1"])
    last = [str(Path(options.output, network.name, "last.pt")) for network in (rexnet, mobilenet)]
    shared = {"data": str(options.data / "test"), "images": options.images, "device": "cpu"}
    found = measure_spectra(SpectraConfig(models=tuple(last), untrained_too=True, output=options.output, **shared))
    shutil.copyfile(Path(options.output, "figure.png"), FIGURE)
    for spectrum in found:
        index = int(mobilenet.name in spectrum.network)
        figures = {name: value for name, value in asdict(spectrum).items() if name != "values"}
        quantiles = {str(share): round(spectrum.quantile(share), 5) for share in (0.5, 0.75, 0.98)}
        row = {
            **figures,
            "network": (rexnet, mobilenet)[index].name,
            "macs": macs((rexnet, mobilenet)[index]),
            "quantiles": quantiles,
            "top1_percent": top1[index] if spectrum.trained else None,
            "data": "CIFAR-10 (JPEG files)",
            "epochs": options.epochs,
            "shots": options.shots,
        }
        records.append(NAME, {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
