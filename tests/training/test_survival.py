"""Runs as real processes that are signalled, killed and starved, and what is left of them."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rexnet.training import checkpoint
from rexnet.training.classify import train
from rexnet.training.resume import config_to_dict, newest
from rexnet.training.run_folder import RunFolder

# A training that says where it is, and waits there until it is told to go on or stopped.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from rexnet import cli
from rexnet.training import classify
from rexnet.training.config import TrainConfig
from rexnet.training.resume import config_from_dict

torch.set_num_threads(1)
config, phase, flag = config_from_dict(TrainConfig, json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
is_it = os.environ.get("RANK", "0") == os.environ.get("AT_RANK", "0")

def pausing(function, at):
    calls = iter(range(10**6))
    def paused(*args, **kwargs):
        if next(calls) == at and is_it:
            flag.touch()
            for _ in range(400):
                time.sleep(0.01)
        return function(*args, **kwargs)
    return paused

def dying(function, at):
    calls = iter(range(10**6))
    def dies(*args, **kwargs):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return dies

def raising(*args, **kwargs):
    raise RuntimeError("this process has a trouble of its own")

if phase == "start":
    classify.open_dataset = pausing(classify.open_dataset, 0)
elif phase == "training":
    classify.classification_loss = pausing(classify.classification_loss, 7)
elif phase == "validation":
    classify.evaluate = pausing(classify.evaluate, 1)
elif phase == "die" and is_it and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    classify.classification_loss = dying(classify.classification_loss, 7)
elif phase == "raise" and is_it:
    classify.classification_loss = raising
cli.COMMANDS["train"] = lambda arguments: classify.train(config)
cli.main(["train"])
# Threads of gloo that outlive its process group have aborted the end of Python.
assert [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()] == []
"""
"""What starting three Pythons with torch may take on a busy machine."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture
def at(tiny_config, tmp_path, changed):
    return lambda name, **run: changed(tiny_config, "run", output=str(tmp_path / name), **run)


@pytest.fixture
def start(tmp_path):
    """start(config, phase): the process, when it has come so far. Its whole group is killed in the end."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = []

    def begin(config, phase, *launcher, **environment):
        flag = tmp_path / f"{phase} {len(started)}"
        arguments = [*launcher, str(program), json.dumps(config_to_dict(config)), phase, str(flag)]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert flag.exists() or process.poll() is not None
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = checkpoint.read(path)
    return {**content["state_dict"], **content["training"]["updater"].get("model", {})}


def assert_same_end(one: str, two: str) -> None:
    first, second = weights(RunFolder(one).last), weights(RunFolder(two).last)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "number", "workers", "code"),
    [
        ("start", signal.SIGTERM, 0, 143),
        ("start", signal.SIGINT, 0, 130),
        ("training", signal.SIGTERM, 2, 143),
        ("training", signal.SIGINT, 0, 130),
        ("validation", signal.SIGTERM, 0, 143),
        ("validation", signal.SIGINT, 2, 130),
        ("training", signal.SIGHUP, 2, 129),
    ],
)
def test_a_signal_in_any_phase_saves_and_ends_with_its_code(at, start, phase, number, workers, code):
    config = at("stopped", workers=workers)
    process = start(config, phase)
    os.killpg(process.pid, number)  # as a terminal and most schedulers do: workers and all
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert f"stopped by {number.name}" in said
    assert said.count(f"{number.name}: the run is saved and stops after this step") == (phase != "start")
    run = RunFolder(config.run.output)
    if phase == "start":
        assert not run.path.exists()
        return
    training = checkpoint.read(run.last)["training"]
    assert (training["epoch"], training["step"]) == {"training": (1, 3), "validation": (1, 5)}[phase]
    assert f"rexnet train --resume {run.path}" in said
    train(replace(config, run=replace(config.run, resume=True, workers=0)))
    train(at("straight"))
    assert_same_end(at("straight").run.output, config.run.output)


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run_and_nohup_keeps_it_running(at, tmp_path):
    pty = pytest.importorskip("pty")
    program, flag = tmp_path / "program.py", tmp_path / "flag"
    program.write_text(PROGRAM)
    for ignored in (True, False):
        config = at(f"nohup {ignored}")
        flag.unlink(missing_ok=True)
        process, terminal = pty.fork()
        if process == 0:
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            with (tmp_path / "log").open("w") as log:
                for number in (1, 2) if ignored else ():
                    os.dup2(log.fileno(), number)
            arguments = [str(program), json.dumps(config_to_dict(config)), "training", str(flag)]
            os.execv(sys.executable, [sys.executable, *arguments])
        deadline = time.monotonic() + 120
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.close(terminal)
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == (0 if ignored else 129)
        training = checkpoint.read(RunFolder(config.run.output).last)["training"]
        assert ((training["epoch"], training["step"]) == (1, 3)) is not ignored


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["training", "validation"])
def test_two_processes_stop_together_if_one_is_stopped(at, start, phase):
    config = at("stopped", batch_size=4)
    process = start(config, phase, *TORCHRUN)
    (worker, *_) = children(process.pid)
    os.kill(worker, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "stopped by SIGTERM" in said
    training = checkpoint.read(RunFolder(config.run.output).last)["training"]
    assert training["epoch"] == 1 and training["step"] > 0 and training["processes"] == 2
    with pytest.raises(ValueError, match=r"2 processes, but now there are 1; .*torchrun --nproc-per-node 2"):
        train(replace(config, run=replace(config.run, resume=True)))
    for name in ("stopped", "straight"):
        again = replace(config, run=replace(config.run, resume=True, output=at(name).run.output))
        assert start(again, "none", *TORCHRUN).wait(timeout=120) == 0
    assert_same_end(at("straight").run.output, config.run.output)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["rank 0", "rank 1", "torchrun"])
def test_when_one_process_dies_all_end(at, start, who):
    rank = "1" if who == "rank 1" else "0"
    process = start(at("dead", batch_size=4), "training", *TORCHRUN, AT_RANK=rank)
    workers = children(process.pid)
    began = time.monotonic()
    victim = process.pid if who == "torchrun" else workers[int(rank)]
    os.kill(victim, signal.SIGKILL)
    while any(map(is_alive, workers)):
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    if who != "torchrun":
        assert "lost another process of the run" in said or "stopped by SIGTERM" in said, "the survivor says it"
    assert newest(RunFolder(at("dead").run.output).last) is not None


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_raises_all_end_and_its_reason_is_reported(at, start, rank):
    process = start(at("raised", batch_size=4), "raise", *TORCHRUN, AT_RANK=str(rank))
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "this process has a trouble of its own" in said


@pytest.mark.slow
def test_torchrun_restarts_a_lost_process_with_equal_weights(at, start):
    """The same command with --resume auto, once without a loss, once with rank 1 killed inside an epoch."""
    config = at("lost", batch_size=4, save_minutes=1e-6, resume=True)
    process = start(config, "die", *TORCHRUN, "--max-restarts=1", AT_RANK="1")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0 and "continuing" in said, said
    straight = at("straight", batch_size=4, save_minutes=1e-6)
    process = start(straight, "nothing", *TORCHRUN)
    assert process.communicate(timeout=240) and process.returncode == 0
    assert_same_end(straight.run.output, config.run.output)


@pytest.mark.slow
def test_two_killed_and_resumed_processes_equal_uninterrupted_ones(at, start):
    config = at("killed", batch_size=4, save_minutes=1e-6)
    process = start(config, "training", *TORCHRUN)
    workers = children(process.pid)
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    training = checkpoint.read(RunFolder(config.run.output).last)["training"]
    assert training["step"] > 0 and training["epoch"] == 1, "the kill fell inside an epoch"
    for name in ("killed", "straight"):
        again = replace(config, run=replace(config.run, resume=True, output=at(name).run.output))
        assert start(again, "none", *TORCHRUN).wait(timeout=120) == 0
    assert_same_end(at("straight").run.output, config.run.output)


@pytest.mark.slow
def test_a_loader_process_that_dies_ends_the_run_with_the_cause(at, start):
    process = start(at("run", workers=2), "training")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in said
    assert re.search(r"a worker process (\(pid \d+\) )?ended unexpectedly, .*fewer --workers", said)


@pytest.mark.slow
def test_the_folder_of_a_run_is_its_own(at, start):
    config = at("run")
    process = start(config, "training")
    for change in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"another process is writing to '.*run'; stop it first"):
            train(replace(config, run=replace(config.run, **change)))
    assert process.poll() is None


@pytest.mark.slow
def test_fifty_kills_while_saving_always_leave_the_newest_checkpoint(tmp_path):
    chance = random.Random(0)
    last, previous, number = tmp_path / "last.pt", tmp_path / "previous.pt", 0
    for kill in range(50):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:  # fifty starts of Python with torch would take minutes
            _save_forever(write, last, previous, number)
        os.close(write)
        with os.fdopen(read) as lines:
            assert lines.readline()
            time.sleep(chance.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            numbers = [int(line) for line in lines if line.endswith("\n")]
        content = newest(last, previous)
        newest_number = max(numbers, default=number)
        assert content is not None and content["number"] in (newest_number, newest_number + 1), kill
        assert not list(tmp_path.glob("*.damaged"))
        number = content["number"]
    assert number > 50


def _save_forever(pipe: int, last: Path, previous: Path, number: int) -> None:
    content = {"format": checkpoint.CHECKPOINT_FORMAT, "filler": torch.zeros(20_000)}
    try:
        while True:
            checkpoint.save(last, {**content, "number": number}, keep=previous)
            os.write(pipe, f"{number}\n".encode())
            number += 1
    finally:
        os._exit(1)


FULL_DISK = """
import json, resource, signal, sys, torch
from rexnet import cli
from rexnet.training import classify, checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.resume import config_from_dict

torch.set_num_threads(1)  # as in the runs it is compared with
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save, calls = checkpoint.save, iter(range(100))

def limited(path, content, **more):
    if next(calls) == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    save(path, content, **more)

checkpoint.save = limited
cli.COMMANDS["train"] = lambda arguments: classify.train(config_from_dict(TrainConfig, json.loads(sys.argv[1])))
cli.main(["train"])
# Threads of gloo that outlive its process group have aborted the end of Python.
assert [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()] == []
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_sentence_and_a_checkpoint(at):
    config = at("full")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, json.dumps(config_to_dict(config))], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "could not be written (File too large)" in done.stderr.splitlines()[-1]
    assert newest(RunFolder(config.run.output).last) is not None
    train(replace(config, run=replace(config.run, resume=True)))
    train(at("straight"))
    assert_same_end(at("straight").run.output, config.run.output)


def children(parent: int) -> list[int]:
    """Process ids, oldest first."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sorted(map(int, listed))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
