"""Nuclear norms of Table 2's networks at initialisation, in layouts whose cost is the paper's.

The paper states the factors, not strides, stem or last convolution, and its FLOPs do not identify them: with 2 for each
value of a batch norm added to the multiply-accumulates, all of them come within 3 % of the published 103, 99, 105
and 105 M. A row is a network with one seed; networks in the results are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated

import torch
import tyro

import records
from rexnet.data.datasets import open_dataset
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.rexnet import RexNet
from rexnet.study.config import FactorConfig
from rexnet.study.factors import CLASSES, FACTORS, IMAGE_PX, PENULTIMATE_CHANNELS, Factor
from rexnet.study.layers import evenly_spread, read_batches
from rexnet.study.spectra import BATCH, final_features, spectrum_of, take_statistics

NAME = "factor_layouts"


@dataclass(frozen=True)
class Layout:
    name: str
    stem_stride: int
    strides: tuple[int, int]
    after_pooling: bool
    """The convolution to 1280 channels follows the pooling."""
    channels: tuple[tuple[int, int, int], ...]
    """After the stem and each bottleneck, for expansion 20 and 6 with ratio .22, and for ratio .8."""
    shortcuts: bool = True
    """Bottlenecks of stride 1 add their input to their first channels."""

    def network(self, factor: Factor, *, classes: int) -> RexNetConfig:
        channels = self.channels[min(FACTORS.index(factor), 2)]  # the last step changes no channels
        blocks = tuple(
            BlockSpec(
                in_channels=before,
                expanded_channels=factor.expansion * before,
                out_channels=after,
                stride=stride,
                shortcut=self.shortcuts and stride == 1,
                expand_activation=factor.activation,
            )
            for (before, after), stride in zip(pairwise(channels), self.strides, strict=True)
        )
        penultimate, hidden = (0, PENULTIMATE_CHANNELS) if self.after_pooling else (PENULTIMATE_CHANNELS, 0)
        return RexNetConfig(
            name=f"{self.name}_{factor.name}",
            blocks=blocks,
            stem_channels=channels[0],
            stem_stride=self.stem_stride,
            activation="relu6",
            num_classes=classes,
            drop_rate=0.0,
            penultimate_channels=penultimate,
            head_hidden_channels=hidden,
        )


BY_STRIDES = (
    Layout("strides_2_2", 1, (2, 2), False, ((16, 74, 338), (26, 116, 529), (88, 111, 138))),
    Layout("stem_stride_2", 2, (2, 2), False, ((36, 162, 735), (60, 272, 1235), (185, 231, 289))),
    Layout("strides_1_2", 1, (1, 2), True, ((10, 44, 198), (17, 79, 358), (60, 75, 94))),
    Layout("no_strides", 1, (1, 1), True, ((6, 28, 125), (11, 51, 230), (51, 64, 80))),
)

LAYOUTS = (
    *BY_STRIDES,
    *(replace(each, name=f"{each.name}_no_shortcuts", shortcuts=False) for each in BY_STRIDES if 1 in each.strides),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/factor_layouts.py cifar10`"""

    data: Annotated[str, tyro.conf.Positional]
    seeds: int = 3
    images: int = 1000
    """Validation images whose features are measured."""
    threads: int = 1


def macs(config: RexNetConfig) -> float:
    """Count multiply-accumulates and 2 for each value of a batch norm, in millions."""
    values, total = 0, 0
    model = RexNet(config)

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal values, total
        if isinstance(layer, torch.nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, torch.nn.BatchNorm2d):
            values += output.numel()

    for layer in model.modules():
        layer.register_forward_hook(count)
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, IMAGE_PX, IMAGE_PX))
    return round((total + 2 * values) / 1e6, 1)


def missing(options: Options) -> Iterator[tuple[int, Layout, Factor]]:
    done = {(row["layout"], row["network"], row["seed"]) for row in records.read(NAME)}
    for seed, layout, factor in product(range(options.seeds), LAYOUTS, FACTORS):
        if (layout.name, factor.name, seed) not in done:
            yield seed, layout, factor


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    facts = records.provenance("cpu")
    sets = open_dataset(options.data).for_training(seed=0)
    preprocess = FactorConfig(data=options.data, output="unused").training(FACTORS[0], seed=0).input.preprocess()
    batches = partial(
        read_batches,
        evenly_spread(sets.val, options.images),
        preprocess,
        device=torch.device("cpu"),
        batch_size=BATCH,
    )
    for seed, layout, factor in list(missing(options)):
        config = layout.network(factor, classes=len(sets.classes))
        torch.manual_seed(seed)
        model = RexNet(config)
        take_statistics(model, batches())
        spectrum = spectrum_of(final_features(model, batches()), network=factor.name, trained=False)
        row = {
            "layout": layout.name,
            "network": factor.name,
            "seed": seed,
            "million_macs": macs(replace(config, num_classes=CLASSES)),
            "samples": spectrum.samples,
            "nuclear_norm": round(spectrum.nuclear_norm, 2),
            "effective_rank": round(spectrum.effective_rank, 3),
            "data": Path(options.data).name,
        }
        print(row, flush=True)
        records.append(NAME, {**row, **facts})


if __name__ == "__main__":
    main()
