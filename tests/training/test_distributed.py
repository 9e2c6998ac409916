import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rexnet.training.distributed import World, joined

PROGRAM = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
import torch
from torch import nn
from rexnet.data.datasets import open_dataset
from rexnet.data.loaders import EvalBatches
from rexnet.models.config import BlockSpec
from rexnet.models.config import RexNetConfig
from rexnet.models.rexnet import RexNet
from rexnet.data.preprocess import Preprocess
from rexnet.training.config import OptimConfig, ScheduleConfig
from rexnet.training.distributed import joined
from rexnet.training.evaluation import evaluate
from rexnet.training.optimization import LearningRate, Updater

torch.set_num_threads(1)
data, out = sys.argv[1:]
block = BlockSpec(in_channels=8, expanded_channels=24, out_channels=12, stride=2, se_channels=4)

with joined("cpu") as world:
    torch.manual_seed(0)
    model = RexNet(RexNetConfig(name="tiny", blocks=(block,), stem_channels=8, penultimate_channels=32, num_classes=3))
    sets = open_dataset(data).for_training()
    preprocess = Preprocess(image_size_px=16)
    counts = []
    for batch_size in (1, 4, 100):
        batches = EvalBatches(sets.val, preprocess, batch_size=batch_size, rank=world.rank, world_size=world.size)
        found = evaluate(model, batches, classes=sets.classes, world=world)
        counts.append([found.images, found.correct, found.called, found.correct_in_top5, round(found.loss_sum, 4)])

    # With frozen statistics, the gradient averaged over the processes is that of the whole batch.
    model.eval()
    network = world.wrap(model)
    rate = LearningRate(peak_lr=0.1, schedule=ScheduleConfig(warmup_epochs=0.0), steps_per_epoch=10)
    updater = Updater(model, OptimConfig(ema_decay=0.9), rate, scale_gradients=False)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(8) % 3
    mine = slice(world.rank, None, world.size)
    for step in range(3):
        updater.begin()
        updater.backward(nn.functional.cross_entropy(network(images[mine]), targets[mine]))
        assert updater.finish(step)
        updater.apply(step)
    weights = [float(p.detach().double().abs().sum()) for p in model.parameters()]

    # Gradients that are kept in a process are averaged with the next ones, in one exchange.
    parts = images[mine].chunk(2), targets[mine].chunk(2)
    updater.begin()
    nn.functional.cross_entropy(network(images[mine]), targets[mine]).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    updater.begin()
    with world.keep_gradients(network):
        updater.backward(nn.functional.cross_entropy(network(parts[0][0]), parts[1][0]) / 2)
    kept = float(model.features[0].weight.grad.sum())
    exchanged = world.size > 1 and len(set(world.gather([kept]))) == 1
    updater.backward(nn.functional.cross_entropy(network(parts[0][1]), parts[1][1]) / 2)
    accumulated = not exchanged and all(
        torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-6)
        for p, gradient in zip(model.parameters(), whole, strict=True)
    )

    # A loss that is not finite on the last process is so for all of them.
    spoiled = float("nan") if world.rank == world.size - 1 else 1.0
    updater.begin()
    updater.backward(nn.functional.cross_entropy(network(images[mine]), targets[mine]) * spoiled)
    finite = updater.finish(3)
    discarded = world.any(not finite, False, world.is_main) == (True, False, True)

    # After different batches, all have the statistics of the main process.
    model.train()
    network(images[mine])
    world.share_buffers(model)
    statistics = world.from_main(model.features[1].running_mean.clone())
    shared = torch.equal(model.features[1].running_mean, statistics) and bool(statistics.any())
    names = world.gather([f"rank {world.rank}"])
    big = world.sum(torch.tensor([2**53 + 1]) if world.is_main else torch.tensor([0]))
    world.wait()
    result = {
        "counts": counts, "weights": weights, "discarded": discarded, "shared": shared, "names": names,
        "big": int(big), "accumulated": accumulated,
        "untouched": [float(p.detach().double().abs().sum()) for p in model.parameters()] == weights,
    }
    Path(out, f"{world.size}-{world.rank}.json").write_text(json.dumps(result))
assert not torch.distributed.is_initialized()
del network
# Threads of gloo that outlive its process group have aborted the end of Python.
assert [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()] == []
"""


@pytest.fixture
def prime_folder(image_folder) -> Path:
    """13 images to validate on: no number of processes or batch size divides them."""
    from shutil import copy

    copy(image_folder / "val" / "cat" / "0.jpg", image_folder / "val" / "cat" / "again.jpg")
    return image_folder


def run_processes(count: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = command if count > 1 else [sys.executable]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one(prime_folder, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    for count in (1, 2):
        run_processes(count, str(program), str(prime_folder), str(tmp_path))
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert {**first, "big": 0} == {**second, "big": 0}
    for counts in one["counts"]:
        assert sum(counts[0]) == 13
    assert [row[:4] for row in first["counts"]] == [row[:4] for row in one["counts"]]
    assert [row[4] for row in first["counts"]] == pytest.approx([row[4] for row in one["counts"]], abs=1e-3)
    assert first["weights"] == pytest.approx(one["weights"], rel=1e-5)
    for result in (one, first, second):
        assert result["discarded"] and result["untouched"] and result["shared"] and result["accumulated"]
        assert result["big"] == 2**53 + 1
    assert first["names"] == ["rank 0", "rank 1"]


@pytest.mark.parametrize("shared_disk", [True, False])
def test_one_process_loads_first_on_each_disk(shared_disk, monkeypatch):
    """Two machines with two processes each, as threads. What one process has loaded, the others of its disk find."""
    ranks = [(0, 0), (1, 1), (2, 0), (3, 1)]
    barrier, disks, loads = threading.Barrier(len(ranks), timeout=60), {}, []
    monkeypatch.setattr(torch.distributed, "barrier", barrier.wait)

    def take_part(rank: int, local_rank: int) -> int:
        def load() -> int:
            disk = 0 if shared_disk else rank // 2
            if disk not in disks:
                time.sleep(0.05)
                loads.append(rank)
                disks[disk] = rank
            return disks[disk]

        return World(device=torch.device("cpu"), rank=rank, local_rank=local_rank, size=len(ranks)).in_turns(load)

    with ThreadPoolExecutor(len(ranks)) as pool:
        found = list(pool.map(lambda pair: take_part(*pair), ranks))
    assert loads == ([0] if shared_disk else [0, 2])
    assert found == ([0] * 4 if shared_disk else [0, 0, 2, 2])


@pytest.mark.slow
def test_two_machines_validate_like_one(trained_run, tmp_path):
    """Two processes that are each the first of a machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    data, result = trained_run.parent / "images", tmp_path / "result.json"
    command = [sys.executable, "-m", "rexnet", "validate", str(trained_run / "best.pt"), str(data), "--threads", "1"]
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    machines = [
        subprocess.Popen([*command, "--output", str(result)], env={**os.environ, **shared, "RANK": rank})
        for rank in ("0", "1")
    ]
    assert [machine.wait(timeout=120) for machine in machines] == [0, 0]
    found = json.loads(result.read_text())
    assert (found["images"], found["top1"]) == (12, 100.0)


def test_a_single_process_does_not_communicate():
    with joined("cpu") as world:
        assert world == World(device=torch.device("cpu")) and world.is_main
        values = torch.tensor([1, 2])
        assert torch.equal(world.sum(values), values) and world.gather(["a"]) == ["a"]
        assert world.any(True, False) == (True, False) and world.from_main("a") == "a"
        model = torch.nn.BatchNorm2d(2)
        assert world.wrap(model) is model
        world.share_buffers(model)
        world.wait()


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "", "CPU"])
def test_a_missing_device_is_refused_in_one_sentence(device):
    with pytest.raises(ValueError, match=f"--device is '{device}'; allowed on this machine: auto, cpu"), joined(device):
        pass


def test_auto_is_the_best_available_device():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    with joined("auto") as world:
        assert world.device.type == best
