"""Singular values of the final features of ReXNet and MobileNetV2, trained alike on CIFAR-10 and at initialisation.

Both have stem stride 1 and the same multiply-accumulates. MobileNetV2 is a list of blocks to the project's network, so
that both go through `rexnet train`'s loop, recipe and order of images. Runs go on where they were stopped.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

import control
import records
from rexnet.files import write_whole
from rexnet.models.config import RexNetConfig, config_text
from rexnet.models.variants import model_config
from rexnet.study.config import SpectraConfig
from rexnet.study.principles.chains import chain_cost, read_chain
from rexnet.study.principles.tracing import trace
from rexnet.study.spectra import measure_spectra
from rexnet.training.classify import train
from rexnet.training.recipes import small_image
from rexnet.training.run_folder import RunFolder

NAME = "spectra"
FIGURE = Path(__file__).parent.parent / "docs/images/spectra.png"
IMAGE_PX = control.IMAGE_PX


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/spectra.py cifar` with the folder that holds CIFAR-10's train/ and test/."""

    data: Annotated[Path, tyro.conf.Positional]
    width: float = control.MOBILENET_WIDTH
    """Of MobileNetV2."""
    epochs: int = 2
    shots: int = 1200
    """Training images of each class."""
    images: int = 2000
    """Test images whose features are measured."""
    threads: int = 1
    output: str = "runs/spectra"


def mobilenet_v2(width: float) -> RexNetConfig:
    """timm's, with a stem of stride 1, as a list of blocks."""
    model = control.mobilenet(10, width=width)
    chain = read_chain(model, trace(model, IMAGE_PX), IMAGE_PX)
    assert chain is not None
    return replace(chain, name=f"mobilenetv2_x{width:g}")


def macs(config: RexNetConfig) -> int:
    return chain_cost(replace(config, num_classes=10), IMAGE_PX).macs


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    mobilenet = mobilenet_v2(options.width)
    rexnet = model_config("rexnet", width=control.rexnet_width(macs(mobilenet)), stem_stride=1)
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
