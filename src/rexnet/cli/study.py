"""Commands for studies of the rank of networks and of the paper's design principles."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rexnet.cli.options import read_options
from rexnet.cli.tables import new_table, show
from rexnet.text import quantity

if TYPE_CHECKING:
    from rexnet.study.config import RankConfig
    from rexnet.study.factors import Mean


def rank(arguments: Sequence[str]) -> None:
    """Measure the rank of random networks, or of a network's layers"""
    from rexnet.study.config import RankConfig

    config = read_options("study rank", RankConfig, arguments)
    if config.network.model is not None:
        _show_layers(config)
        return

    from rexnet.study.rank_study import study_ranks

    cells = study_ranks(config)
    for block in config.protocol.blocks:
        print(f"{block}: rank over output channels, %, by ratio")
        table = new_table("", *(f"{ratio:g}" for ratio in config.protocol.ratios))
        for activation in config.protocol.activations:
            means = {cell.ratio: cell.mean for cell in cells if (cell.block, cell.activation) == (block, activation)}
            table.add_row(activation, *(f"{100 * means[ratio]:.1f}" for ratio in config.protocol.ratios))
        show(table)
    print(f"{quantity(cells[0].networks, 'network')} per cell; tables and figures: {config.output}")


def _show_layers(config: "RankConfig") -> None:
    from rexnet.study.layers import measure_network
    from rexnet.study.protocol import Protocol

    tolerance = config.protocol.tolerance or Protocol().tolerance
    assert tolerance is not None
    layers = measure_network(config.network, tolerance=tolerance, output=config.output)
    table = new_table(
        "layer", "kind", "in", "out", "ratio", "rank", "rank / out", "effective", "stable", "nuclear norm"
    )
    for layer in layers:
        ranks = (f"{layer.rank_ratio:.3f}", f"{layer.effective_rank:.1f}", f"{layer.stable_rank:.2f}")
        sizes = (str(layer.in_channels), str(layer.out_channels), f"{layer.ratio:.3f}", str(layer.rank))
        table.add_row(layer.name, layer.kind, *sizes, *ranks, f"{layer.nuclear_norm:.4g}")
    show(table)
    lowest = sorted(layers, key=lambda layer: (layer.lacks_samples, layer.effective_rank_ratio))[:3]
    names = ", ".join(f"{layer.name} ({layer.effective_rank_ratio:.3f})" for layer in lowest)
    print(f"lowest effective rank over output channels: {names}")
    print(f"tables and figures: {config.output}")


def depth(arguments: Sequence[str]) -> None:
    """Measure the rank of deep random networks by number of expand layers"""
    from rexnet.study.config import DepthConfig

    config = read_options("study depth", DepthConfig, arguments)

    from rexnet.study.rank_study import study_depth

    cells = study_depth(config)
    print(f"rank over output channels, %, of {quantity(config.layers, 'layer')} by how many expand")
    table = new_table("which expand", "activation", *map(str, range(1, config.layers + 1)))
    for placement in dict.fromkeys(placement for placement, _ in cells):
        for activation in config.activations:
            found = [cells[placement, count][activation] for count in range(1, config.layers + 1)]
            table.add_row(placement, activation, *(f"{100 * cell.mean:.1f}" for cell in found))
    show(table)
    print(f"{quantity(found[0].networks, 'network')} per cell; tables and figures: {config.output}")


def spectra(arguments: Sequence[str]) -> None:
    """Compare the singular values of the final features of networks"""
    from rexnet.study.config import SpectraConfig

    config = read_options("study spectra", SpectraConfig, arguments)

    from rexnet.study.spectra import measure_spectra

    found = measure_spectra(config)
    table = new_table("network", "images", "channels", "effective rank", "nuclear norm", "median")
    for one in found:
        sizes = (str(one.samples), str(one.channels))
        table.add_row(
            one.label, *sizes, f"{one.effective_rank:.1f}", f"{one.nuclear_norm:.4g}", f"{one.quantile(0.5):.4f}"
        )
    show(table)
    print(f"median of the singular values relative to the largest; figures: {config.output}")


def factors(arguments: Sequence[str]) -> None:
    """Train the two-bottleneck networks of the paper's Table 2"""
    from rexnet.study.config import FactorConfig

    config = read_options("study factors", FactorConfig, arguments)

    from rexnet.study.factor_run import study_factors

    found = study_factors(config)
    table = new_table("network", "top-1, %", "step", "paper", "nuclear norm", "step", "paper")
    for one in found:
        top1 = (_mean_text(one.top1, digits=1), _mean_text(one.top1_step, digits=1, sign="+"))
        norm = (_mean_text(one.nuclear_norm, digits=0), _mean_text(one.nuclear_norm_step, digits=0, sign="+"))
        published = (f"{one.factor.top1:.1f}", f"{one.factor.nuclear_norm:.0f}")
        table.add_row(one.factor.name, *top1, published[0], *norm, published[1])
    show(table)
    seeds = found[0].seeds
    print(f"{quantity(seeds, 'seed')}, ± standard deviation; tables and figures: {config.output}")


def _mean_text(value: "Mean | None", *, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    spread = "" if value.deviation is None else f" ± {value.deviation:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{spread}"


def advise(arguments: Sequence[str]) -> None:
    """List the layers of a network that break the design principles"""
    from rexnet.study.advice_config import AdviceConfig

    config = read_options("study advise", AdviceConfig, arguments)

    from rexnet.study.principles.advice import RULES
    from rexnet.study.principles.run import advise_on

    advice = advise_on(config)
    if config.format == "json":
        print(json.dumps({"model": config.model, **advice.to_dict()}, indent=2))
        sys.exit(1 if advice.findings else 0)
    if advice.findings:
        table = new_table("layer", "channels", "ratio", "MACs, M", "breaks", "instead")
        for each in advice.findings:
            sizes = (f"{each.in_channels} -> {each.out_channels}", f"{each.ratio:.2f}", f"{each.macs / 1e6:.2f}")
            table.add_row(each.layer, *sizes, each.found, each.remedy)
        show(table)
    layers = f"{quantity(advice.layers, 'layer')}, {quantity(advice.blocks, 'block')}"
    macs = f"{advice.macs / 1e6:,.1f} M MACs at {advice.image_size_px} px"
    print(f"{config.model}: {layers} with a depthwise convolution, {macs}")
    for rule, count in advice.by_rule().items():
        print(f"{count} {rule}: {RULES[rule]}")
    if advice.unseen:
        print(f"unknown activation after {len(advice.unseen)}: {', '.join(advice.unseen)}")
    if advice.findings:
        sys.exit(1)
    print("no layer breaks a rule")


def rewrite(arguments: Sequence[str]) -> None:
    """Rewrite a known network by the design principles at equal cost"""
    from rexnet.study.advice_config import RewriteConfig

    config = read_options("study rewrite", RewriteConfig, arguments)

    from rexnet.study.principles.run import rewrite_known

    report = rewrite_known(config)
    table = new_table("layer", "before", "after", "why")
    for change in report.changes:
        table.add_row(change.layer, change.before or "(none)", change.after, ", ".join(change.reasons))
    show(table)
    for reason, text in report.why.items():
        print(f"{reason}: {text}")
    for sentence in report.left:
        print(f"unchanged: {sentence}")
    before, after = report.before, report.after
    for name, old, new in (("MACs", before.macs, after.macs), ("parameters", before.parameters, after.parameters)):
        print(f"{name}: {old / 1e6:,.2f} M -> {new / 1e6:,.2f} M ({100 * (new / old - 1):+.2f} %)")
    print(f"counted at {report.image_size_px} px; the network's name is rewritten/{config.model}")
    if config.output is not None:
        print(f"report: {config.output}")
