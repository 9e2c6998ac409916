"""Commands about the rank of networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rexnet.cli.options import read_options
from rexnet.cli.tables import new_table, show

if TYPE_CHECKING:
    from rexnet.study.run import RankConfig


def rank(arguments: Sequence[str]) -> None:
    """Measure the rank of random networks, or of a network's layers"""
    from rexnet.study.run import RankConfig, study

    config = read_options("study rank", RankConfig, arguments)
    if config.network.model is not None:
        _show_layers(config)
        return
    cells = study(config)
    for block in config.protocol.blocks:
        print(f"{block}: rank over output channels, %, by ratio")
        table = new_table("", *(f"{ratio:g}" for ratio in config.protocol.ratios))
        for activation in config.protocol.activations:
            means = {cell.ratio: cell.mean for cell in cells if (cell.block, cell.activation) == (block, activation)}
            table.add_row(activation, *(f"{100 * means[ratio]:.1f}" for ratio in config.protocol.ratios))
        show(table)
    print(f"{cells[0].networks:,} networks a cell; tables and figures: {config.output}")


def _show_layers(config: "RankConfig") -> None:
    from rexnet.study.network_run import measure_network
    from rexnet.study.protocol import Protocol

    tolerance = config.protocol.tolerance or Protocol().tolerance
    assert tolerance is not None
    layers = measure_network(config.network, tolerance=tolerance, output=config.output)
    table = new_table(
        "layer", "kind", "in", "out", "ratio", "rank", "rank / out", "effective", "stable", "nuclear norm"
    )
    for layer in layers:
        shares = (f"{layer.rank_ratio:.3f}", f"{layer.effective_rank:.1f}", f"{layer.stable_rank:.2f}")
        sizes = (str(layer.in_channels), str(layer.out_channels), f"{layer.ratio:.3f}", str(layer.rank))
        table.add_row(layer.name, layer.kind, *sizes, *shares, f"{layer.nuclear_norm:.4g}")
    show(table)
    lowest = sorted(layers, key=lambda layer: layer.effective_rank_ratio)[:3]
    told = ", ".join(f"{layer.name} ({layer.effective_rank_ratio:.3f})" for layer in lowest)
    print(f"lowest effective rank over output channels: {told}")
    print(f"tables and figures: {config.output}")
