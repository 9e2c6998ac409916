"""Results of benchmarks/principles.py: top-1 of each pair of networks with its spread, gains with their intervals."""

import statistics

from scipy import stats

import records

Setting = tuple[str, float, int, int]
"""Pair, width, epochs and images of each class."""


def _runs() -> dict[Setting, dict[bool, dict[int, dict]]]:
    runs: dict[Setting, dict[bool, dict[int, dict]]] = {}
    for row in records.read("principles"):
        setting = (row["pair"], row["width"], row["epochs"], row["images_per_class"])
        runs.setdefault(setting, {False: {}, True: {}})[row["rewritten"]][row["seed"]] = row
    return runs


def pairs() -> dict[Setting, list[list[float]]]:
    """Top-1 of base and rewriting by the seeds that both were trained with, where there are several."""
    return {
        setting: [[sides[side][seed]["top1_percent"] for seed in seeds] for side in (False, True)]
        for setting, sides in _runs().items()
        if len(seeds := sorted(sides[False].keys() & sides[True].keys())) > 1
    }


def gains() -> list[list[str]]:
    """A header, and a row for each pair and setting, over the seeds that both of its networks were trained with."""
    sizes = ("MACs, M (base / rewritten)", "parameters, M", "seeds")
    lines = [["base and training", *sizes, "base, top-1, %", "rewritten", "gain, 95 % interval"]]
    for (pair, width, epochs, images), sides in _runs().items():
        seeds = sorted(sides[False].keys() & sides[True].keys())
        if not seeds:
            continue
        top1 = [[sides[side][seed]["top1_percent"] for seed in seeds] for side in (False, True)]
        first = [sides[side][seeds[0]] for side in (False, True)]
        lines.append(
            [
                f"{pair} x{width:g}, {epochs} epochs of {10 * images:,} images",
                " / ".join(f"{row['macs'] / 1e6:.2f}" for row in first),
                " / ".join(f"{row['parameters'] / 1e6:.3f}" for row in first),
                str(len(seeds)),
                *map(mean_and_deviation, top1),
                gain(*top1),
            ]
        )
    return lines


def mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def interval(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """Mean difference of pairs, and the 95 % interval of Student's t around it."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = statistics.mean(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return mean, mean - half, mean + half


def gain(before: list[float], after: list[float]) -> str:
    """Mean difference of pairs with its interval, where there are several."""
    if len(before) == 1:
        return f"{after[0] - before[0]:+.2f}, one seed"
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*interval(before, after))
