"""Append the results of `rexnet study rank`, `depth` or `factors` to results/, and copy its figure to docs/."""

import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from fit_rank_protocol import compare

import records
from rexnet.data.facts import DataFacts
from rexnet.errors import require
from rexnet.study.factors import FACTORS, TABLE, count_macs, network, read_factors, summarise
from rexnet.study.factors import KIND as FACTORS_KIND
from rexnet.study.published import PUBLISHED
from rexnet.study.rank_table import KIND, cell_means, read_rows
from rexnet.study.rank_table import TABLE as RANKS
from rexnet.study.tables import read_settings

IMAGES = Path(__file__).parent.parent / "docs/images"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/record_study.py factors factor_study --command "rexnet study factors cifar10"`"""

    what: Annotated[Literal["rank", "depth", "factors"], tyro.conf.Positional]
    study: Annotated[Path, tyro.conf.Positional]
    """Folder that the command wrote."""
    command: str
    """Command that made the folder, as typed."""
    processes: int | None = None
    """Of rank, and needed there, as the next two: the command's own --processes."""
    minutes: float | None = None
    """Wall time of the whole command, as `time -v` reports it."""
    peak_memory_gb: float | None = None
    """Greatest resident memory of all its processes together, as `ps -o rss` reports it every few seconds."""

    def __post_init__(self) -> None:
        for name, value in self.spent().items():
            allowed = "a number with rank, nothing with depth and factors"
            require((value is not None) == (self.what == "rank"), name, value, allowed)

    def spent(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("processes", "minutes", "peak_memory_gb")}


def rank(folder: Path) -> list[dict[str, Any]]:
    """One row; its residuals are of the means over all networks."""
    settings, rows = read_settings(folder / RANKS, kind=KIND) or {}, read_rows(folder / RANKS)[1]
    networks = sum(int(row[4]) for row in rows if row[:3] == rows[0][:3])
    panels = compare(rows, [block for block in settings["blocks"] if block in PUBLISHED])
    ranks = sum(int(row[4]) for row in rows)
    return [{"networks": networks, "ranks": ranks, "panels": panels, "protocol": settings}]


def factors(folder: Path) -> list[dict[str, Any]]:
    """A row a network."""
    settings = read_settings(folder / TABLE, kind=FACTORS_KIND) or {}
    if isinstance(settings["data"], dict):  # tables of older versions hold a sentence, as the rows of results/ do
        settings["data"] = DataFacts.from_dict(settings["data"]).description
    measured = read_factors(folder / TABLE)
    if len(measured) < len(FACTORS):
        return unfinished_factors(folder, settings)
    means = ("top1", "top1_step", "nuclear_norm", "nuclear_norm_step", "effective_rank")
    found = []
    for one in summarise(measured, scale=settings["scale"]):
        runs = [row for row in measured if row.network == one.factor.name][: one.seeds]
        figures = {name: value and value._asdict() for name in means for value in [getattr(one, name)]}
        sizes = {"channels": one.channels, "macs": one.macs, "parameters": runs[0].parameters, "seeds": one.seeds}
        spent = {"samples": runs[0].samples, "minutes": round(sum(row.seconds for row in runs) / 60, 1)}
        found.append({"network": one.factor.name, "title": one.factor.title, **sizes, **figures, **spent, **settings})
    return found


def unfinished_factors(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a network of trainings that were cut off: top-1 after the last epoch that all have, and no nuclear norm."""
    runs = {path.parent.name: path.read_text().splitlines() for path in folder.glob("runs/*/metrics.jsonl")}
    done = min(map(len, runs.values()), default=0)
    seeds = len(runs) // len(FACTORS)
    if not done or set(runs) != {f"{factor.name}-{seed}" for factor in FACTORS for seed in range(seeds)}:
        sys.exit(f"{folder} has no seed with all networks")
    found: list[dict[str, Any]] = []
    above: list[float] = []
    for factor in FACTORS:
        top1 = [json.loads(runs[f"{factor.name}-{seed}"][done - 1])["val_top1"] for seed in range(seeds)]
        steps = [mine - other for mine, other in zip(top1, above, strict=True)] if above else []
        layers = network(factor, scale=settings["scale"])
        stem, first, last = layers.stem_channels, *(block.out_channels for block in layers.blocks)
        macs = count_macs((stem, first, last), expansion=factor.expansion, penultimate=layers.penultimate_channels)
        sizes = {"channels": (stem, first, last), "macs": macs}
        figures = {"top1": mean_of(top1), "top1_step": mean_of(steps), "nuclear_norm": None, "nuclear_norm_step": None}
        head = {"network": factor.name, "title": factor.title, **sizes, "seeds": seeds}
        found.append({**head, **figures, "epochs_done": done, **settings})
        above = top1
    return found


def mean_of(values: list[float]) -> dict[str, float | None] | None:
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation}


def depth(folder: Path) -> list[dict[str, Any]]:
    """A row a kind of network."""
    settings, rows = read_settings(folder / RANKS, kind=KIND) or {}, read_rows(folder / RANKS)[1]
    found = []
    for block in settings.pop("blocks"):
        means = {name: round(next(iter(curve.values())), 4) for name, curve in cell_means(rows, block).items()}
        networks = sum(int(row[4]) for row in rows if row[0] == block) // len(means)
        found.append({"block": block, "rank_ratio": means, "networks": networks, "protocol": settings})
    return found


def environment_of(folder: Path) -> dict[str, Any]:
    """Return the environment of the first training run in the folder, or else of this process."""
    environment = records.provenance("cpu")
    for file in sorted(folder.glob("runs/*/environment.json"))[:1]:
        trained = json.loads(file.read_text())
        device = records.device_name("cpu") if trained["device"] == "cpu" else trained["device"]
        environment |= {name: trained[name] for name in ("threads", "python", "torch", "torchvision", "timm")}
        environment |= {"date": trained["time"][:10], "commit": records.short_commit(trained["commit"])}
        environment |= {"device": device}
    return environment


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    rows = {"rank": rank, "depth": depth, "factors": factors}[options.what](options.study)
    spent = options.spent() if options.what == "rank" else {}
    environment = environment_of(options.study)
    for row in rows:
        records.append(options.what, {**row, **spent, "data_command": options.command, **environment})
    shutil.copyfile(options.study / "figure.png", IMAGES / f"{options.what}.png")


if __name__ == "__main__":
    main()
