"""`rexnet study depth`: rank of deep random networks against the number of layers that expand (v1 of the paper).

All networks have the same depth and the same channels at both ends; only where in between the channels grow differs.
Neither depth, widths nor weights of v1 are published: all of that is our choice.
"""

from dataclasses import dataclass

from rexnet.errors import require
from rexnet.study.figures import plot_depth
from rexnet.study.jobs import Workers
from rexnet.study.networks import ACTIVATIONS, Placement, deep_name
from rexnet.study.protocol import Protocol
from rexnet.study.run import check_amounts, measure_cells
from rexnet.study.summary import Cell
from rexnet.study.tables import make_folder

PLACEMENTS: tuple[Placement, ...] = ("late", "spread", "early")


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Measures the rank of what deep random networks put out, by how many of their layers expand, and which."""

    output: str = "depth_study"
    """Folder for tables and figures. A stopped study goes on there, and one with more --networks is extended."""
    networks: int = 200
    """Random networks of every number and placement, a multiple of 50; each is seen with every activation."""
    layers: int = 6
    """1x1 convolutions of a network, each with its activation."""
    ratio: float = 0.1
    """Input over output channels of the whole network."""
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    """linear, relu, relu6, leaky_relu, elu, softplus, hardswish, silu, or any class of torch.nn, as GELU."""
    seed: int = 0
    """Of all that is random."""
    processes: int = 1
    """Processes; -1: as many as there are cores."""

    def __post_init__(self) -> None:
        check_amounts(self.networks, self.processes)
        require(2 <= self.layers <= 50, "layers", self.layers, "2 to 50")
        require(0 < self.ratio < 1, "ratio", self.ratio, "above 0 and below 1, so that there is something to expand")
        self.protocol()

    def protocol(self) -> Protocol:
        """Weights keep the size of the signal, which would grow from layer to layer until a SiLU is a ReLU and a ReLU6
        a step; no network is so small that its layers have a channel or two."""
        names = [deep_name(placement, count, layers=self.layers) for placement, count in self.cells()]
        chosen = {"activations": self.activations, "seed": self.seed}
        sizes = {"smallest_size": 30, "largest_size": 70, "size_step": 10, "samples_per_channel": 2.0}
        scale = {"weights": "he", "weight_scale": 1.0, "tolerance": 2e-4}
        return Protocol(blocks=tuple(names), ratios=(self.ratio,), **sizes, **scale, **chosen)

    def cells(self) -> list[tuple[Placement, int]]:
        """Placement and number of expand layers, in the order of the tables."""
        return [(placement, count) for placement in PLACEMENTS for count in range(1, self.layers + 1)]


def study_depth(config: DepthConfig) -> dict[tuple[str, int], dict[str, Cell]]:
    """By placement, number of expand layers and activation; writes ranks.csv, summary.csv and figure.png and .svg."""
    folder = make_folder(config.output)
    workers = Workers(processes=config.processes)
    cells = measure_cells(config.protocol(), networks=config.networks, folder=folder, workers=workers)
    by_block: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_block.setdefault(cell.block, {})[cell.activation] = cell
    found = {
        (placement, count): by_block[deep_name(placement, count, layers=config.layers)]
        for placement, count in config.cells()
    }
    plot_depth(found, folder / "figure")
    return found
