"""`rexnet study factors`: trains the networks of Table 2 and measures their final features, over several seeds."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import torch
import tyro

from rexnet.data.datasets import open_dataset
from rexnet.errors import require
from rexnet.files import write_whole
from rexnet.models.config_files import config_text
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet, RexNetConfig
from rexnet.study.factors import (
    COLUMNS,
    FACTORS,
    IMAGE_PX,
    KIND,
    TABLE,
    Factor,
    FactorRow,
    FactorSummary,
    network,
    plot_factors,
    read_factors,
    summarise,
    summary_csv,
)
from rexnet.study.layers import evenly_spread, read_batches
from rexnet.study.spectra import BATCH, final_features, spectrum_of, take_statistics
from rexnet.study.tables import append_rows, make_folder, open_table
from rexnet.training import checkpoint
from rexnet.training.classify import train
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import choose_device
from rexnet.training.recipes import small_image
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_RECIPE = small_image()


@dataclass(frozen=True, kw_only=True)
class FactorConfig:
    """Trains the four two-bottleneck networks of the paper's Table 2 and measures top-1 and nuclear norm."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Labelled images as for rexnet train; the paper has torchvision/cifar100."""
    output: str = "factor_study"
    """Folder for tables, figure and run folders. A stopped study goes on there; one with more --seeds is extended."""
    seeds: int = 3
    """Each network is trained so often; the networks of a seed see the same images in the same order."""
    scale: float = 1.0
    """MACs as a share of the published ones; smaller networks keep all ratios."""
    epochs: int = _RECIPE.schedule.epochs
    """Passes over the training images, by the recipe small-image."""
    batch_size: int = _RECIPE.run.batch_size
    """Images a step; the learning rate scales with it."""
    shots: int | None = None
    """Train on so many images of each class only, others for every seed."""
    images: int = 2000
    """Held-back images whose features are measured, evenly spread."""
    untrained: bool = False
    """Measure the networks as training would begin, and train nothing."""
    processes: int = 1
    """Trainings at a time; small networks leave most of a GPU idle."""
    workers: int | None = None
    """Processes that read images for each training; None: up to 8 beside a GPU, none beside a CPU."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    threads: int | None = None
    """CPU threads of PyTorch in each process; None leaves its choice."""

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "seeds", self.seeds, "1 or more")
        require(0 < self.scale <= 4, "scale", self.scale, "above 0, up to 4")
        require(self.images >= 2, "images", self.images, "2 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")
        require(self.processes >= 1, "processes", self.processes, "1 or more")
        for name in ("epochs", "shots", "batch_size", "processes", "workers"):
            default = type(self).__dataclass_fields__[name].default
            idle = self.untrained and getattr(self, name) != default
            require(not idle, name, getattr(self, name), f"{default} beside --untrained, which trains nothing")
        self.training(FACTORS[0], seed=0)

    @cached_property
    def networks(self) -> dict[str, RexNetConfig]:
        """By the names of FACTORS."""
        return {factor.name: network(factor, scale=self.scale) for factor in FACTORS}

    def network_file(self, factor: Factor) -> Path:
        """Of the network that is trained."""
        return Path(self.output, "networks", f"{self.networks[factor.name].name}.json")

    def training(self, factor: Factor, *, seed: int) -> TrainConfig:
        """The recipe small-image on the network of `factor`, continued where it was stopped."""
        output = str(Path(self.output, "runs", f"{factor.name}-{seed}"))
        machine = {"device": self.device, "threads": self.threads, "workers": self.workers}
        run = {"seed": seed, "batch_size": self.batch_size, "output": output, "resume": True}
        return replace(
            _RECIPE,
            data=self.data,
            network=replace(_RECIPE.network, model=str(self.network_file(factor))),
            input=replace(_RECIPE.input, shots=self.shots),
            schedule=replace(_RECIPE.schedule, epochs=self.epochs),
            run=replace(_RECIPE.run, **machine, **run),
        )

    def settings(self, data: str) -> dict[str, object]:
        """What decides the rows of the table, `data` being the set in words."""
        names = ("scale", "epochs", "shots", "batch_size", "images", "untrained")
        return {"data": data, **{name: getattr(self, name) for name in names}}


def study_factors(config: FactorConfig) -> list[FactorSummary]:
    """Brings factors.csv up to date, a row a network and seed, and writes summary.csv and figure.png and .svg."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    settings = config.settings(open_dataset(config.data).for_training().description)
    path = make_folder(config.output) / TABLE
    done = open_table(path, kind=KIND, settings=settings, columns=COLUMNS)
    tasks = [(seed, factor) for seed in range(config.seeds) for factor in FACTORS]
    if config.processes > 1:
        _train_side_by_side(config, tasks[done:])
    for number, (seed, factor) in enumerate(tasks[done:], start=done + 1):
        logger.info("network %d of %d: %s, seed %d", number, len(tasks), factor.name, seed)
        append_rows(path, [asdict(_measure(config, factor, seed=seed, device=device)).values()])
    summaries = summarise(read_factors(path), scale=config.scale)
    write_whole(path.with_name("summary.csv"), summary_csv(summaries))
    plot_factors(summaries, path.with_name("figure"))
    return summaries


def _train_side_by_side(config: FactorConfig, tasks: Sequence[tuple[int, Factor]]) -> None:
    """Trainings that are complete stay as they are."""
    # Not in_parallel, whose workers are PyTorch's loaders and cannot start any themselves.
    with ProcessPoolExecutor(config.processes, get_context("spawn")) as pool:
        jobs = [pool.submit(_train, config, factor, seed) for seed, factor in tasks]
        for number, job in enumerate(as_completed(jobs), start=1):
            logger.info("%d of %d trained: %s", number, len(tasks), job.result().path)


def _train(config: FactorConfig, factor: Factor, seed: int) -> RunFolder:
    """The network of `factor`, to the end, in the run folder that is returned."""
    file = config.network_file(factor)
    make_folder(str(file.parent))
    write_whole(file, config_text(config.networks[factor.name]))
    training = config.training(factor, seed=seed)
    train(training)
    return RunFolder(training.run.output or "")


def _measure(config: FactorConfig, factor: Factor, *, seed: int, device: torch.device) -> FactorRow:
    began = time.perf_counter()
    sets = open_dataset(config.data).for_training(seed=seed)
    training = config.training(factor, seed=seed)
    layers = replace(config.networks[factor.name], num_classes=len(sets.classes))
    torch.manual_seed(seed)
    model, top1 = RexNet(layers), None
    if not config.untrained:
        run = _train(config, factor, seed)
        model, top1 = checkpoint.load(run.last), run.rows()[-1]["val_top1"]
    batches = partial(
        read_batches,
        evenly_spread(sets.val, config.images),
        training.input.preprocess(),
        device=device,
        batch_size=BATCH,
    )
    model.to(device)
    if config.untrained:
        take_statistics(model, batches())
    spectrum = spectrum_of(final_features(model, batches()), network=factor.name, trained=not config.untrained)
    cost = measure_cost(model, IMAGE_PX)
    return FactorRow(
        network=factor.name,
        seed=seed,
        macs=cost.macs,
        parameters=cost.parameters,
        top1=top1,
        samples=spectrum.samples,
        nuclear_norm=spectrum.nuclear_norm,
        effective_rank=spectrum.effective_rank,
        stable_rank=spectrum.stable_rank,
        seconds=round(time.perf_counter() - began, 1),
    )
