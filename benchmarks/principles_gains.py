"""Results of benchmarks/principles.py: top-1 of each pair of networks with its spread, gains with their intervals."""

import statistics

from scipy import stats

import records


def gains() -> list[list[str]]:
    """A header, and a row for each pair and setting, over the seeds that both of its networks were trained with."""
    runs: dict[tuple, dict[bool, dict[int, dict]]] = {}
    for row in records.read("principles"):
        setting = (row["pair"], row["width"], row["epochs"], row["images_per_class"])
        runs.setdefault(setting, {False: {}, True: {}})[row["rewritten"]][row["seed"]] = row
    sizes = ("MACs, M (base / rewritten)", "parameters, M", "seeds")
    lines = [["base and training", *sizes, "base, top-1, %", "rewritten", "gain, 95 % interval"]]
    for (pair, width, epochs, images), sides in runs.items():
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


def gain(before: list[float], after: list[float]) -> str:
    """Mean difference of pairs with the 95 % interval of Student's t."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.2f}, one seed"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"
