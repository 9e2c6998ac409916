"""Well-known networks beside their rewriting by the paper's principles, on CIFAR-10 at equal multiply-accumulates: the
same loop, recipe, images, order and way of drawing first weights, over several seeds.

Each base is the library's own network with a stem for small images and, to fit the time, fewer channels in every layer.
Runs already in the results are skipped, so a second call continues.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import timm
import torch
import torchvision
import tyro
from torch import nn

import control
import records
from rexnet.study.principles import rewrite
from rexnet.study.principles.dense import find_channel_groups, resize
from rexnet.study.principles.rewriting import measure_size
from rexnet.study.principles.tracing import trace

NAME = "principles"
Pair = Literal["MobileNetV1", "MobileNetV2", "ResNet50", "VGG16"]


def mobilenet_v1(num_classes: int) -> nn.Module:
    return control.with_fine_stem(timm.create_model("mobilenetv1_100", num_classes=num_classes))


def mobilenet_v2(num_classes: int) -> nn.Module:
    return control.with_fine_stem(timm.create_model("mobilenetv2_100", num_classes=num_classes))


def resnet50(num_classes: int) -> nn.Module:
    model = torchvision.models.resnet50(num_classes=num_classes)
    model.conv1.stride = (1, 1)
    return model


def vgg16(num_classes: int) -> nn.Module:
    """With the pooling and the one linear layer that 32 pixels leave to classify."""
    model = torchvision.models.vgg16_bn(num_classes=num_classes)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(512, num_classes))
    return model


# What is trained in minutes on one core: the library's network, and its channels over the published ones.
BASES: dict[Pair, tuple[Callable[[int], nn.Module], float]] = {
    "MobileNetV1": (mobilenet_v1, 0.5),
    "MobileNetV2": (mobilenet_v2, 0.5),
    "ResNet50": (resnet50, 0.25),
    "VGG16": (vgg16, 0.25),
}


@dataclass(frozen=True, kw_only=True)
class Options(control.Options):
    """`python benchmarks/principles.py cifar` with the folder that holds CIFAR-10's train/ and test/."""

    images_per_class: int = 1000
    """Training images of each class, the same ones in every run."""
    pairs: tuple[Pair, ...] = tuple(BASES)
    width: float | None = None
    """Channels of every layer over those of the published network; None: 0.5 for MobileNets, 0.25 for the others."""
    time_only: bool = False
    """Only measure the seconds that training takes for 1000 images, and write nothing."""


def narrow_base(pair: Pair, num_classes: int, *, width: float) -> nn.Module:
    model = BASES[pair][0](num_classes)
    found = trace(model, control.IMAGE_PX)
    groups = find_channel_groups(found)
    classifier = list(groups.widths)[-1]
    widths = {group: round(width * channels) for group, channels in groups.widths.items() if group != classifier}
    resize(model, found, groups, widths)
    return model


def create(num_classes: int, *, pair: Pair, width: float, rewritten: bool) -> nn.Module:
    """With PyTorch's own first weights in every layer of either network."""
    model = narrow_base(pair, num_classes, width=width)
    if rewritten:
        model, _ = rewrite(model, image_size_px=control.IMAGE_PX)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    return model


def seconds_for_1000_images(model: nn.Module, batch_size: int = 64, steps: int = 4) -> float:
    """Of the processor, in forward and backward passes on random images: the fastest of some steps."""
    model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.randn(batch_size, 3, control.IMAGE_PX, control.IMAGE_PX).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(steps):
        began = time.process_time()
        model(images).square().mean().backward()
        seconds.append(time.process_time() - began)
    return min(seconds) * 1000 / batch_size


def run(pair: Pair, seed: int, options: Options) -> None:
    """Train the base and its rewriting, unless their rows are there."""
    width = options.width or BASES[pair][1]
    setting = {"width": width, "epochs": options.epochs, "images_per_class": options.images_per_class}
    done = [row for row in records.read(NAME) if {**setting, "pair": pair, "seed": seed}.items() <= row.items()]
    for rewritten in (False, True):
        make = partial(create, pair=pair, width=width, rewritten=rewritten)
        model = make(10)
        cost = measure_size(model, control.IMAGE_PX)
        said = (
            f"{pair}{', rewritten' if rewritten else ''}, {cost.macs / 1e6:.2f} M MACs, {cost.parameters / 1e6:.3f} M"
        )
        if options.time_only:
            print(f"{said}: {seconds_for_1000_images(model):.2f} s for 1000 images", flush=True)
        elif rewritten not in {row["rewritten"] for row in done}:
            figures = control.train(make, seed, options)
            row = {"data": "CIFAR-10 (JPEG files)", "pair": pair, "rewritten": rewritten, "seed": seed, **setting}
            sizes = {"macs": cost.macs, "parameters": cost.parameters}
            records.append(NAME, {**row, **sizes, **figures, **records.provenance("cpu")})
            print(f"{said}, seed {seed}: {figures['top1_percent']:.2f} % in {figures['seconds']:.0f} s", flush=True)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    for seed in range(1 if options.time_only else options.seeds):
        for pair in options.pairs:
            run(pair, seed, options)


if __name__ == "__main__":
    main()
