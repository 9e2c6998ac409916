"""`rexnet study rank`: the whole study into a folder, resumable."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from rexnet.errors import require
from rexnet.files import write_whole
from rexnet.study.figures import plot_study
from rexnet.study.jobs import Backend, Workers
from rexnet.study.network_run import NetworkOptions
from rexnet.study.protocol import Protocol
from rexnet.study.summary import Cell, read_rows, summarise, summary_csv
from rexnet.study.sweep import CHUNK, list_tasks, sweep
from rexnet.study.tables import make_folder

logger = logging.getLogger(__name__)

RANKS = "ranks.csv"
_SECONDS_BETWEEN_NEWS = 20.0


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Measures the rank of what random networks put out, or, with --model, of each layer of a network at hand."""

    output: str = "rank_study"
    """Folder for tables and figures. A stopped study goes on there, and one with more --networks is extended."""
    networks: int = 200
    """Random networks of every block and ratio, a multiple of 50; each is seen with every activation."""
    processes: int = 1
    """Processes, or jobs of the cluster at a time; -1: as many as there are cores."""
    backend: Backend = "loky"
    """Of joblib. dask and ray spread the work over the cluster at --address."""
    address: str | None = None
    """Of the cluster's scheduler, as tcp://host:8786; None: one on this machine."""
    protocol: Protocol = field(default_factory=Protocol)
    network: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        check_amounts(self.networks, self.processes)
        local = self.backend in ("loky", "threading")
        require(self.address is None or not local, "address", self.address, "with --backend dask or ray only")


def check_amounts(networks: int, processes: int) -> None:
    """Raises OptionError for --networks and --processes that cannot be."""
    ours = networks >= CHUNK and networks % CHUNK == 0
    require(ours, "networks", networks, f"a multiple of {CHUNK}, which share a row of the table")
    require(processes >= 1 or processes == -1, "processes", processes, "1 or more, or -1")


def study(config: RankConfig) -> list[Cell]:
    """Brings the folder's table up to date, and writes ranks.csv, summary.csv and figure.png and .svg from it."""
    folder = make_folder(config.output)
    workers = Workers(processes=config.processes, backend=config.backend, address=config.address)
    cells = measure_cells(config.protocol, networks=config.networks, folder=folder, workers=workers)
    plot_study(cells, folder / "figure")
    return cells


def measure_cells(protocol: Protocol, *, networks: int, folder: Path, workers: Workers) -> list[Cell]:
    """Brings ranks.csv of the folder to so many networks a cell, telling how it goes, and writes summary.csv."""
    path = folder / RANKS
    total = len(list_tasks(protocol, networks)) * len(protocol.activations)
    began = told = time.monotonic()
    first = None
    for rows in sweep(protocol, networks=networks, path=path, workers=workers):
        first = rows if first is None else first
        now = time.monotonic()
        if now - told > _SECONDS_BETWEEN_NEWS:
            told, left = now, (now - began) * (total - rows) / max(1, rows - first)
            logger.info("%s of %s rows, about %.0f minutes left", f"{rows:,}", f"{total:,}", left / 60)
    cells = summarise(*read_rows(path))
    write_whole(folder / "summary.csv", summary_csv(cells))
    return cells
