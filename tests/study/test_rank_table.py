import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from rexnet.ranks.matrix_rank import count_rank
from rexnet.study.config import CHUNK
from rexnet.study.networks import BLOCKS, generator_for, outputs
from rexnet.study.protocol import Protocol
from rexnet.study.rank_table import Task, cell_means, extend_table, list_tasks, measure, read_rows, summarise

SMALL = Protocol(
    blocks=("conv1x1", "bottleneck_depthwise"),
    activations=("linear", "relu", "silu"),
    ratios=(0.2, 0.5),
    smallest_size=10,
    largest_size=20,
    size_step=10,
)


def run(path, protocol=SMALL, *, networks=CHUNK, **where):
    extend_table(path, protocol, networks=networks, **where)
    return path.read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("study") / "ranks.csv", networks=2 * CHUNK)


@pytest.mark.parametrize("name", SMALL.blocks)
def test_a_row_is_the_sum_over_networks_computed_one_by_one_in_any_order(name):
    order = list(range(CHUNK))
    random.Random(0).shuffle(order)
    rows = {row[1]: float(row[5]) for row in measure(SMALL, Task(name, 0.5, CHUNK))}
    for activation in SMALL.activations:
        total = 0.0
        for number in order:
            generator = generator_for(SMALL.seed, name, ratio=0.5, network=CHUNK + number)
            size = SMALL.draw_size(BLOCKS[name], ratio=0.5, generator=generator)
            batch = [SMALL.draw_tensors(BLOCKS[name], size, generator)]
            matrices = outputs(SMALL, BLOCKS[name], batch=batch, activations=[activation])[0]
            total += count_rank(matrices, tolerance=SMALL.tolerance).item() / size.out_channels
        assert rows[activation] == pytest.approx(total, abs=1e-12)


def test_linear_networks_have_the_rank_of_their_ratio(tmp_path):
    run(tmp_path / "ranks.csv")
    means = cell_means(read_rows(tmp_path / "ranks.csv")[1], "conv1x1")
    assert means["linear"] == pytest.approx({0.2: 0.2, 0.5: 0.5})
    assert means["silu"][0.5] > means["relu"][0.5] > 0.5


@pytest.mark.seconds
def test_two_processes_write_the_same_bytes(tmp_path, finished):
    assert run(tmp_path / "ranks.csv", networks=2 * CHUNK, processes=2) == finished


def test_more_networks_extend_the_table(tmp_path, finished):
    run(tmp_path / "ranks.csv")
    assert run(tmp_path / "ranks.csv", networks=2 * CHUNK) == finished


@pytest.mark.parametrize("cut", [1, 3, 100, 333])
def test_a_truncated_last_row_is_computed_again(tmp_path, finished, cut):
    (tmp_path / "ranks.csv").write_bytes(finished[:-cut])
    assert run(tmp_path / "ranks.csv", networks=2 * CHUNK) == finished


@pytest.mark.seconds
def test_killed_and_resumed_the_table_has_the_same_bytes(tmp_path, finished):
    path = tmp_path / "ranks.csv"
    code = f"from tests.study.test_rank_table import *; extend_table({str(path)!r}, SMALL, networks=2 * CHUNK)"
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while child.poll() is None and not (path.exists() and path.stat().st_size > len(finished) // 2):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.stat().st_size < len(finished)
    assert run(path, networks=2 * CHUNK) == finished


def test_a_local_dask_cluster_writes_the_same_bytes(tmp_path, finished):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options, host="127.0.0.1", protocol="tcp") as cluster:
        address = cluster.scheduler_address
        found = run(tmp_path / "ranks.csv", networks=2 * CHUNK, address=address)
    assert found == finished


def test_a_table_of_another_protocol_is_refused(tmp_path):
    run(tmp_path / "ranks.csv")
    with pytest.raises(
        ValueError, match=r"ranks.csv was written with --tolerance 0.0001, not 0.01; name another folder"
    ):
        run(tmp_path / "ranks.csv", replace(SMALL, tolerance=0.01))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other.csv is not a table of rexnet study rank"):
        run(tmp_path / "other.csv")


def test_the_tolerance_lowers_ranks(tmp_path):
    means = [
        cell_means(measure(replace(SMALL, tolerance=tolerance), Task("conv1x1", 0.2, 0)), "conv1x1")["silu"][0.2]
        for tolerance in (1e-5, 1e-3, 1e-1)
    ]
    assert means[0] > means[1] > means[2]


def test_more_ratios_or_activations_do_not_change_the_networks():
    wider = replace(SMALL, ratios=(0.5, 0.7), activations=("silu",))
    same = [row for row in measure(SMALL, Task("conv1x1", 0.5, 0)) if row[1] == "silu"]
    assert measure(wider, Task("conv1x1", 0.5, 0)) == same
    assert len(list_tasks(SMALL, 2 * CHUNK)) == 2 * 2 * 2


def test_spectra_and_the_summary():
    protocol = replace(SMALL, spectra=True)
    rows = measure(protocol, Task("conv1x1", 0.2, 0))
    assert [row[:7] for row in rows] == measure(SMALL, Task("conv1x1", 0.2, 0))
    columns = [*"abcdefg", "effective_rank_ratio_sum", "stable_rank_ratio_sum", "nuclear_norm_sum"]
    for cell in summarise(columns, rows):
        assert (cell.networks == CHUNK and 0 < cell.interval < cell.deviation + 1e-9) or cell.activation == "linear"
        assert 0 < cell.others["stable_rank_ratio"] < cell.others["effective_rank_ratio"] <= cell.mean + 1e-9
        assert cell.others["nuclear_norm"] > 0


def test_torchs_number_of_threads_is_restored():
    before = torch.get_num_threads()
    measure(SMALL, Task("conv1x1", 0.2, 0))
    assert torch.get_num_threads() == before
