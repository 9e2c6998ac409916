"""The tables of docs/study.md, from results/."""

from collections.abc import Callable
from statistics import fmean

import records
from markdown_tables import table_if_any
from principles_gains import gains
from rexnet.study.factors import FACTORS
from rexnet.text import plural


def rank_fit() -> str:
    """Residuals of each panel, of the newest study that benchmarks/record_study.py recorded."""
    newest = records.read("rank")[-1:]
    targets = {"conv1x1": 0.012, "conv3x3": 0.012, "bottleneck3x3": 0.03, "bottleneck_depthwise": 0.03}
    rows = [
        [
            f"({letter}) `{block}`",
            f"{panel['mean_absolute_error']:.4f}",
            f"{targets[block]:g}",
            f"{panel['largest_error']:+.3f}",
            str(len(panel["misordered"])),
            f"{row['networks']:,}",
        ]
        for row in newest
        for letter, (block, panel) in zip("abcd", row["panels"].items(), strict=True)
    ]
    errors = ("mean absolute error", "aimed at", "largest error", "pairs of points in the wrong order")
    text = table_if_any(["panel", *errors, "networks per cell"], rows)
    return _below_figure("Rank against channel ratio", "rank", text)


def rank_time() -> str:
    """Time and memory of the same study."""
    rows = [
        [
            f"{row['device']}, {row['processes']} processes",
            f"{row['ranks']:,}",
            f"{row['minutes']:.1f}",
            f"{row['peak_memory_gb']:.1f}",
        ]
        for row in records.read("rank")[-1:]
    ]
    return table_if_any(["machine", "ranks", "minutes", "greatest memory of all processes, GB"], rows)


def rank_speed() -> str:
    """The newest row of benchmarks/rank_study.py."""
    rows = [
        [
            f"{row['device']}, {row['processes']} processes",
            f"{row['ranks_a_round']:,}",
            f"{row['study_seconds'][1]:.1f}",
            f"{row['loop_seconds'][1]:.1f}",
            f"{row['times_faster'][1]:.1f} ({row['times_faster'][0]:.1f} to {row['times_faster'][2]:.1f})",
        ]
        for row in records.read("rank_study_cpu")[-1:]
    ]
    return table_if_any(["machine", "ranks", "study, s", "loop, s", "times faster (quartiles)"], rows)


def depth() -> str:
    """The newest row of each kind of deep network that benchmarks/record_study.py recorded."""
    newest = {row["block"]: row for row in records.read("depth")}
    shown = ("linear", "relu", "relu6", "elu", "softplus", "silu")
    rows = []
    for block, row in newest.items():
        placement, count, _, layers = block.split("_")
        means = [f"{row['rank_ratio'][name]:.3f}" for name in shown]
        rows.append([placement, f"{count} of {layers}", *means, str(row["networks"])])
    text = table_if_any(["expand layers are", "how many", *shown, "networks"], rows)
    return _below_figure("Rank against expand layers", "depth", text)


def factors() -> str:
    """The newest row of each network and protocol of `rexnet study factors` that was recorded."""
    protocol = ("data", "scale", "epochs", "epochs_done", "shots", "untrained")
    newest = {(*(row.get(name) for name in protocol), row["network"]): row for row in records.read("factors")}
    published = {factor.name: factor for factor in FACTORS}
    rows = []
    for row in newest.values():
        factor = published[row["network"]]
        scale = "" if row["scale"] == 1 else f" x {row['scale']:g}"
        rows.append(
            [
                f"{row['title']} ({'-'.join(map(str, row['channels']))})",
                f"{factor.macs / 1e6:.0f}{scale} / {row['macs'] / 1e6:.1f}",
                f"{factor.top1}",
                _spread(row["top1"], 1),
                _spread(row["top1_step"], 1, "+"),
                f"{factor.nuclear_norm:.0f}",
                _spread(row["nuclear_norm"], 0),
                _spread(row["nuclear_norm_step"], 0, "+"),
                f"{row['data'].partition(':')[0]}, {_protocol(row)}, {row['seeds']} {plural(row['seeds'], 'seed')}",
            ]
        )
    figures = ("top-1, % (published)", "measured", "step", "nuclear norm (published)", "measured", "step")
    text = table_if_any(["network (channels)", "MACs, M (published / ours)", *figures, "protocol"], rows)
    return _below_figure("Table 2, published and measured", "factors", text)


def factor_layouts() -> str:
    """Mean nuclear norm at initialisation of Table 2's networks in each layout of benchmarks/factor_layouts.py."""
    norms: dict[str, dict[str, list[float]]] = {}
    for row in records.read("factor_layouts"):
        norms.setdefault(row["layout"], {}).setdefault(row["network"], []).append(row["nuclear_norm"])
    rows = [["published, trained", *(f"{factor.nuclear_norm:.0f}" for factor in FACTORS)]]
    for layout, found in norms.items():
        cells = [f"{fmean(each):.0f} ({min(each):.0f} to {max(each):.0f})" for each in found.values()]
        rows.append([layout.replace("_", " "), *cells])
    return table_if_any(["layout", *(factor.title.partition(":")[0] for factor in FACTORS)], rows)


def _protocol(row: dict) -> str:
    if row["untrained"]:
        return "untrained"
    shots = "all images" if row["shots"] is None else f"{row['shots']} images of each class"
    done = f"{row['epochs_done']} of " if "epochs_done" in row else ""
    return f"{done}{row['epochs']} epochs of {shots}"


def _spread(value: dict | None, digits: int, sign: str = "") -> str:
    if value is None:
        return ""
    spread = "" if value["deviation"] is None else f" ± {value['deviation']:.{digits}f}"
    return f"{value['mean']:{sign}.{digits}f}{spread}"


def spectra() -> str:
    """The newest row of each network of benchmarks/spectra.py."""
    newest = {(row["network"], row["trained"]): row for row in records.read("spectra")}
    rows = [
        [
            f"`{row['network']}`" + ("" if row["trained"] else ", untrained"),
            f"{row['macs'] / 1e6:.1f}",
            f"{row['top1_percent']:.1f}" if row["trained"] else "",
            f"{row['effective_rank']:.0f} of {row['channels']}",
            f"{row['nuclear_norm']:.0f}",
            *(f"{row['quantiles'][share]:.4f}" for share in ("0.5", "0.75", "0.98")),
        ]
        for row in newest.values()
    ]
    quantiles = ("50 % up to", "75 % up to", "98 % up to")
    text = table_if_any(["network", "MACs, M", "top-1, %", "effective rank", "nuclear norm", *quantiles], rows)
    return _below_figure("Singular values of the final features", "spectra", text)


def principles() -> str:
    """The gains of benchmarks/principles.py."""
    header, *rows = gains()
    return table_if_any(header, rows)


def rewritten() -> str:
    """The newest row of each network of benchmarks/rewritten.py."""
    newest = {row["network"]: row for row in records.read("rewritten")}
    rows = []
    for name, row in newest.items():
        after = row.get("breaks_after")
        counts = [f"{count}" + (f" / {after[rule]}" if after else "") for rule, count in row["breaks"].items()]
        sizes = [
            f"{row['before'][size] / 1e6:.2f} / {row['after'][size] / 1e6:.2f}" if after else ""
            for size in ("macs", "parameters")
        ]
        rows.append([f"`{name}`", *counts, *sizes])
    rules = ("expansion", "block ratio", "activation", "penultimate")
    return table_if_any(["network / rewritten", *rules, "MACs, M", "parameters, M"], rows)


def _below_figure(caption: str, name: str, text: str) -> str:
    """The figure that was recorded with the rows, where there is one, and the table."""
    figure = records.RESULTS.parent / f"docs/images/{name}.png"
    return f"![{caption}](images/{name}.png)\n\n{text}" if figure.exists() else text


TABLES: dict[str, Callable[[], str]] = {
    "rank_fit": rank_fit,
    "rank_time": rank_time,
    "rank_speed": rank_speed,
    "depth": depth,
    "factors": factors,
    "factor_layouts": factor_layouts,
    "spectra": spectra,
    "rewritten": rewritten,
    "principles": principles,
}
