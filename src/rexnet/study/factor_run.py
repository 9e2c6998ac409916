"""`rexnet study factors`: training of the networks in Table 2 and measurement of their final features, over several
seeds."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from rexnet.data.datasets import open_dataset
from rexnet.data.facts import DataFacts
from rexnet.files import write_whole
from rexnet.models.config import config_text
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.study.config import FactorConfig
from rexnet.study.factors import (
    COLUMNS,
    FACTORS,
    IMAGE_PX,
    KIND,
    TABLE,
    Factor,
    FactorRow,
    FactorSummary,
    plot_factors,
    read_factors,
    summarise,
    summary_csv,
)
from rexnet.study.layers import evenly_spread, read_batches
from rexnet.study.spectra import BATCH, final_features, spectrum_of, take_statistics
from rexnet.study.tables import append_rows, make_folder, open_table, read_settings
from rexnet.training import checkpoint
from rexnet.training.classify import train
from rexnet.training.distributed import choose_device
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def study_factors(config: FactorConfig) -> list[FactorSummary]:
    """Update factors.csv, with a row per network and seed, and write summary.csv, figure.png and figure.svg."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    path = make_folder(config.output) / TABLE
    data = _data_of_table(path, open_dataset(config.data).for_training().facts())
    done = open_table(path, kind=KIND, settings={"data": data, **config.settings()}, columns=COLUMNS)
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


def _data_of_table(path: Path, facts: DataFacts) -> object:
    """Return the dataset facts that the table records. Raise ValueError if they differ from `facts`."""
    saved = (read_settings(path, kind=KIND) or {}).get("data")
    if saved is None:
        return {name: value for name, value in facts.to_dict().items() if value is not None}
    # Versions up to 0.1 recorded a sentence.
    values = {"description": saved, "classes": facts.classes} if isinstance(saved, str) else saved
    facts.refuse_other(DataFacts.from_dict(values), subject="the study")
    return saved


def _train_side_by_side(config: FactorConfig, tasks: Sequence[tuple[int, Factor]]) -> None:
    """Train several networks at a time; complete runs are kept."""
    # Use separate processes: those of in_parallel are PyTorch's loader workers, which cannot start others.
    with ProcessPoolExecutor(config.processes, get_context("spawn")) as pool:
        jobs = [pool.submit(_train, config, factor, seed) for seed, factor in tasks]
        for number, job in enumerate(as_completed(jobs), start=1):
            logger.info("%d of %d trained: %s", number, len(tasks), job.result().path)


def _train(config: FactorConfig, factor: Factor, seed: int) -> RunFolder:
    """Train the network of `factor` to the end and return the run folder."""
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
