"""A verdict for each claim of the paper, from results/: printed here (`make paper`), rendered by paper_tables.py."""

import math
from typing import Any, Literal, NamedTuple

import torch
from scipy import stats

import deployment_tables
import published
import records
import rexnet
from principles_gains import interval, pairs
from rexnet.models.cost import measure_cost
from rexnet.study.factors import FACTORS

Verdict = Literal["reproduced", "direction only", "not reproduced", "not tried"]


class Claim(NamedTuple):
    """A published statement, ours beside it, and what is needed to repeat it."""

    part: str
    what: str
    published: str
    ours: str
    residual: str
    verdict: Verdict
    source: str
    """Command that makes the rows, or that would."""


def effect_verdict(low: float, high: float, published: float) -> Verdict:
    """Judge an effect by its 95 % interval, which must exclude zero on the published side, and reach the published
    value to be reproduced."""
    if low * published <= 0 or high * published <= 0:
        return "not reproduced"
    return "reproduced" if low <= published <= high else "direction only"


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def unit(printed: str) -> float:
    """Return one unit of the last printed digit: authors round and truncate."""
    return 10.0 ** -len(printed.partition(".")[2])


def _cost(name: str) -> tuple[float, float]:
    with torch.device("meta"):
        cost = measure_cost(rexnet.create_model(name))
    return cost.parameters / 1e6, cost.macs / 1e9


def counted_sizes(networks: dict[str, tuple[str, ...]]) -> dict[str, tuple[tuple[str, str], tuple[float, float]]]:
    """Printed and counted parameters and MACs of our networks."""
    return {name: ((row[2], row[3]), _cost(name)) for name, row in networks.items() if name.startswith("rexnet")}


def ranks() -> list[Claim]:
    """Fig. 1: reproduced within what it can be read off to (0.005 in a and b, 0.01 in c and d)."""
    row = records.read("rank")[-1]
    return [
        Claim(
            f"Fig. 1 ({letter})",
            f"rank ratios of `{block}`, with a protocol fitted to them",
            f"read off to {error:g}",
            f"{row['networks']:,} networks a point, {len(panel['misordered'])} pairs misordered",
            f"{panel['mean_absolute_error']:.4f} (largest {panel['largest_error']:+.3f})",
            "reproduced" if panel["mean_absolute_error"] <= error else "direction only",
            "rexnet study rank --networks 10000",
        )
        for letter, error, (block, panel) in zip("abcd", (0.005, 0.005, 0.01, 0.01), row["panels"].items(), strict=True)
    ]


def factors() -> list[Claim]:
    """Table 2: the total effect, from the baseline to the last network, of each trained protocol."""
    protocols: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in records.read("factors"):
        if not row["untrained"]:
            setting = (row["scale"], row["data"].partition(":")[0], row.get("epochs_done", row["epochs"]))
            protocols.setdefault(setting, {})[row["network"]] = row
    claims = []
    for (scale, data, epochs), rows in protocols.items():
        for what, label, digits in (("top1", "top-1, points", 1), ("nuclear_norm", "nuclear norm", 0)):
            first, last = rows[FACTORS[0].name][what], rows[FACTORS[-1].name][what]
            theirs = getattr(FACTORS[-1], what) - getattr(FACTORS[0], what)
            name = f"total effect on {label} (scale {scale:g}, {data}, {epochs} epochs)"
            command = "rexnet study factors torchvision/cifar100"
            if not first or not last:
                claims.append(Claim("Table 2", name, f"{theirs:+.{digits}f}", "", "", "not tried", command))
                continue
            seeds = rows[FACTORS[0].name]["seeds"]
            ours = last["mean"] - first["mean"]
            # Rows hold no paired differences from the first to the last network, so of the two groups, with the fewest
            # degrees of freedom: the wider interval.
            half = stats.t.ppf(0.975, seeds - 1) * math.hypot(first["deviation"], last["deviation"]) / math.sqrt(seeds)
            claims.append(
                Claim(
                    "Table 2",
                    name,
                    f"{theirs:+.{digits}f}",
                    f"{signed(ours, digits)} ({ours - half:+.{digits}f} to {ours + half:+.{digits}f})",
                    signed(ours - theirs, digits),
                    effect_verdict(ours - half, ours + half, theirs),
                    command,
                )
            )
    return claims


def search() -> list[Claim]:
    """Table 3 and Figs. 2 and 4: the claim is the shape; that the top is above the bottom holds by construction."""
    claims = []
    for constraint in "abcd":
        rows = [row for row in records.read("search") if row["constraint"] == constraint]
        command = f"rexnet search run torchvision/cifar100 --constraint {constraint} --recipe published"
        what, theirs = f"({constraint}): top tenth nearer to a line than the bottom", "top nearer"
        if not rows:
            claims.append(Claim("Table 3, Fig. 2", what, theirs, "", "", "not tried", command))
            continue
        top, bottom = (
            next(100 * group["line"][2] for group in rows[-1]["groups"] if group["name"] == name)
            for name in ("top", "bottom")
        )
        claims.append(
            Claim(
                "Table 3, Fig. 2",
                what,
                theirs,
                f"mean channels {top:.1f} % off a line, bottom {bottom:.1f} %",
                f"{top - bottom:+.1f}",
                "direction only" if top < bottom else "not reproduced",
                command,
            )
        )
    claims.append(
        Claim(
            "Fig. 4", "near-linear at each budget of a depth", "near-linear", "", "", "not tried", "rexnet search run"
        )
    )
    return claims


def sizes() -> list[Claim]:
    """Parameters and MACs of the family, each within one unit of the last printed digit."""
    claims = []
    for part, networks in (("Table 5, supplement", published.FAMILY), ("README, lite", published.LITE)):
        for column, what in enumerate(("parameters, M", "MACs, G")):
            found = {name: (row[0][column], row[1][column]) for name, row in counted_sizes(networks).items()}
            off = [name for name, (text, value) in found.items() if abs(value - float(text)) > unit(text) + 1e-9]
            worst = max((value / float(text) - 1 for text, value in found.values()), key=abs)
            ours = f"{len(found) - len(off)} of {len(found)} to the printed digit"
            ours += f"; not {', '.join(off)}" if off else ""
            verdict = "not reproduced" if off else "reproduced"
            what = f"{what}, of {len(found)} networks"
            claims.append(Claim(part, what, "as printed", ours, f"{100 * worst:+.1f} % at most", verdict, "make paper"))
    return claims


def detectors() -> list[Claim]:
    """Tables 6, 7 and 9: costs within 2 %, accuracies not tried."""
    newest = {(row["kind"], row["backbone"]): row for row in records.read("detector_cost")}
    claims = []
    for part, kind in (("Table 6", "ssdlite"), ("Table 7", "faster_rcnn"), ("Table 9", "mask_rcnn")):
        rows = [row for (each, _), row in newest.items() if each == kind]
        worst = max((row["macs_difference_percent"] for row in rows), key=abs)
        heavy = max((100 * row["parameters_difference_m"] / row["parameters_m"] for row in rows), key=abs)
        claims.append(
            Claim(
                part,
                f"parameters and MACs of {len(rows)} detectors",
                "as printed",
                f"{sum(bool(row['note']) for row in rows)} with a deviation named in their rows",
                f"{heavy:+.1f} % parameters, {worst:+.1f} % MACs at most",
                "reproduced" if max(abs(worst), abs(heavy)) <= 2 else "not reproduced",
                "python benchmarks/detector_cost.py",
            )
        )
        ap = published.DETECTORS[kind, "rexnet_100"][0].partition(" ")[0]
        command = f"rexnet detect train COCO --detector {kind}"
        claims.append(Claim(part, "box AP of ReXNet x1.0 on COCO", ap, "", "", "not tried", command))
    return claims


def latency() -> list[Claim]:
    """Table 5: milliseconds beside the EfficientNet of the same accuracy; another processor and engine here."""
    rows = deployment_tables.newest_networks()
    claims = []
    for ours, theirs in (("100", "b0"), ("130", "b1"), ("150", "b2"), ("200", "b3")):
        names = f"rexnet_{ours}", f"timm/efficientnet_{theirs}"
        printed = float(published.FAMILY[names[0]][4]) / float(published.FAMILY[names[1]][4])
        first, second = (rows[name, "openvino", "fp32", 1]["median_ms"] for name in names)
        agrees = first < second if printed < 1 else abs(first / second - printed) < 0.05
        claims.append(
            Claim(
                "Table 5",
                f"time on a CPU of `{names[0]}` over `{names[1]}`",
                f"{printed:.2f}",
                f"{first / second:.2f} (OpenVINO fp32)",
                f"{first / second - printed:+.2f}",
                "direction only" if agrees else "not reproduced",
                "python benchmarks/deployment.py networks",
            )
        )
    return claims


def spectra() -> list[Claim]:
    """Supplement: the flatter spectrum of ReXNet."""
    newest = {row["network"]: row for row in records.read("spectra") if row["trained"]}
    ours, theirs = (next(row for name, row in newest.items() if name.startswith(each)) for each in ("rexnet", "mobile"))
    ratio = ours["quantiles"]["0.5"] / theirs["quantiles"]["0.5"]
    printed = published.SPECTRUM_MEDIANS["rexnet"] / published.SPECTRUM_MEDIANS["mobilenetv2"]
    return [
        Claim(
            "Supplement, singular values",
            "median singular value, ReXNet over MobileNetV2",
            f"{printed:.1f}",
            f"{ratio:.1f}, one seed; effective rank "
            f"{ours['effective_rank']:.0f} against {theirs['effective_rank']:.0f}",
            f"{ratio - printed:+.1f}",
            "direction only" if ratio > 1 else "not reproduced",
            "python benchmarks/spectra.py cifar10",
        )
    ]


def expand_layers() -> list[Claim]:
    """v1, recalled: the rank rises with the number of expand layers."""
    newest: dict[str, list[float]] = {}
    for block, row in {row["block"]: row for row in records.read("depth")}.items():
        newest.setdefault(block.partition("_")[0], []).append(row["rank_ratio"]["silu"])
    return [
        Claim(
            "v1 (recalled)",
            f"rank rises with the number of expand layers, {placement} ones, SiLU",
            "rises",
            f"{values[0]:.2f} with one, {values[-1]:.2f} with all",
            "",
            "direction only" if values == sorted(values) else "not reproduced",
            "rexnet study depth --networks 200",
        )
        for placement, values in newest.items()
    ]


def rewritten() -> list[Claim]:
    """v1, Table 7: gain of known networks that follow the principles."""
    claims = []
    for (pair, width, epochs, images), (before, after) in pairs().items():
        mean, low, high = interval(before, after)
        theirs = published.REWRITTEN_GAINS[pair]
        claims.append(
            Claim(
                "v1, Table 7",
                f"gain of {pair} by the principles, points (x{width:g}, {epochs} epochs of {10 * images:,} images)",
                theirs,
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{mean - float(theirs.split()[-1]):+.1f}",
                effect_verdict(low, high, float(theirs.split()[-1])),
                "python benchmarks/principles.py cifar",
            )
        )
    return claims


IMAGENET = "rexnet train IMAGENET --recipe imagenet, four GPUs"
UNTRIED = (
    ("Table 4", "ImageNet top-1 of ReXNet x1.0", published.FAMILY["rexnet_100"][0], IMAGENET),
    ("Table 5", "ImageNet top-1 of the family", "77.2 to 82.8", IMAGENET),
    ("README, lite", "ImageNet top-1 of the lite family", "76.2 to 80.2", IMAGENET),
    ("Supplement", "ImageNet top-1 of x1.0 by non-linearity, SiLU over ReLU6", "+0.6", IMAGENET),
    ("Supplement", "top-1 of candidates rises with their trained nuclear norm", "rises", "no command yet"),
    ("Table 8", "top-1 of x1.0 fine-tuned on four sets", "88.4 to 97.8", "rexnet train FOLDER --recipe finetune"),
)
"""Part, claim, published value and command of what needs data or hours that were not at hand."""


MEASURED = (ranks, factors, search, sizes, detectors, latency, spectra, expand_layers, rewritten)


def claims() -> list[Claim]:
    untried = [Claim(part, what, value, "", "", "not tried", command) for part, what, value, command in UNTRIED]
    return [claim for part in MEASURED for claim in part()] + untried


def main() -> None:
    """Print each claim with its verdict and the command that makes its rows."""
    for claim in claims():
        print(f"{claim.verdict:<15} {claim.part}: {claim.what}")
        print(f"{'':<15} published {claim.published}; ours {claim.ours or '-'}; residual {claim.residual or '-'}")
        print(f"{'':<15} {claim.source}")


if __name__ == "__main__":
    main()
