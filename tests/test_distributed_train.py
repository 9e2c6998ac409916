"""The original repository's training command, word for word."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from rexnet import cli
from rexnet.data.config import AugmentConfig
from rexnet.data.erasing import Patches
from rexnet.training import classify
from rexnet.training.config import TrainConfig
from rexnet.training.steps import step_seed

REPOSITORY = Path(__file__).resolve().parents[1]
ORIGINAL = r"""
./distributed_train.sh 4 /imagenet/ --model rexnetv1 --rex-width-mult 1.0 --opt sgd --amp \
 --lr 0.5 --weight-decay 1e-5 \
 --batch-size 128 --epochs 400 --sched cosine \
 --remode pixel --reprob 0.2 --drop 0.2 --aa rand-m9-mstd0.5
"""


def words(data: Path) -> list[str]:
    """The options of the line, as the script hands them on."""
    line = ORIGINAL.replace("\\\n", " ").replace("/imagenet/", str(data)).split()
    return ["--recipe", "imagenet", "--lr-batch", "0", *line[2:]]


@pytest.fixture
def read_config(monkeypatch):
    """The settings that a command line of `rexnet train` arrives at."""

    def read(arguments: list[str]) -> TrainConfig:
        seen = []
        monkeypatch.setattr(classify, "train", lambda config, *_, **__: seen.append(config) or {"run": "run"})
        cli.main(["train", *arguments])
        return seen[0]

    return read


def test_every_flag_means_what_it_means_in_timm(read_config, image_folder):
    config = read_config(words(image_folder))
    assert config.augment == AugmentConfig(
        auto_augment="rand-m9-mstd0.5", random_erasing=0.2, erasing_mode="pixel", label_smoothing=0.1
    )
    assert (config.network.model, config.network.width, config.network.drop_rate) == ("rexnet", 1.0, 0.2)
    assert (config.optim.optimizer, config.optim.weight_decay, config.optim.momentum) == ("sgd", 1e-5, 0.9)
    assert [config.optim.peak_lr(total) for total in (128, 512)] == [0.5, 0.5], "--lr is taken as it is"
    assert (config.schedule.schedule, config.schedule.epochs, config.schedule.warmup_epochs) == ("cosine", 400, 5.0)
    assert (config.run.batch_size, config.run.amp) == (128, "auto")
    assert (config.input.image_size, config.input.crop_ratio, config.input.interpolation) == (224, 0.875, "bicubic")


def test_flags_for_the_larger_and_the_lite_networks(read_config, image_folder):
    more = (
        "--model rexnetv1_lite --rex-width-mult 2.0 --drop-path 0.2 --model-ema --mixup .2 --cutmix 1 --smoothing .05"
    )
    config = read_config([*words(image_folder), *more.split()])
    assert (config.network.model, config.network.width) == ("rexnet_lite", 2.0)
    assert (config.network.drop_path_rate, config.optim.ema_decay) == (0.2, 0.9998)
    assert (config.augment.mixup, config.augment.cutmix, config.augment.label_smoothing) == (0.2, 1.0, 0.05)
    decayed = [*words(image_folder), "--model-ema-decay=0.99", "--model-ema"]
    assert read_config(decayed).optim.ema_decay == 0.99, "in any order"
    equals = read_config(["--amp", str(image_folder), "--model=rexnetv1"])
    assert (equals.data, equals.run.amp) == (str(image_folder), "auto")
    assert (equals.network.model, equals.network.width) == ("rexnet", 1.0)


def test_golden_erasing_and_drop_out_of_each_step(read_config, image_folder, tmp_path, monkeypatch):
    small = "--rex-width-mult 0.1 --img-size 32 --batch-size 18 --epochs 1 --device cpu --workers 0"
    config = read_config([*words(image_folder), *small.split(), "--output", str(tmp_path / "run")])
    monkeypatch.undo()
    erased, dropped = [], []
    lay_over, drop = Patches.lay_over, nn.Dropout.forward

    def note_erased(patches, images):
        erased.append(patches.places[:, :5].tolist())
        lay_over(patches, images)

    def note_dropped(module, x):
        out = drop(module, torch.ones_like(x))
        if module.training:
            dropped.append(out)
        return x * out

    monkeypatch.setattr(Patches, "lay_over", note_erased)
    monkeypatch.setattr(nn.Dropout, "forward", note_dropped)
    classify.train(config)
    # Which image of the batch, and top, left, height and width of what is erased of it.
    assert erased == [
        [[2, 6, 14, 14, 15], [11, 2, 6, 13, 25]],
        [[5, 5, 17, 8, 4], [9, 3, 14, 19, 12], [10, 7, 1, 17, 9], [14, 3, 9, 21, 16]],
    ]
    for step, (seed, mask) in enumerate(zip((15793235383387715774, 5836529245451711556), dropped, strict=True)):
        assert step_seed(0, step, rank=0) == seed
        torch.manual_seed(seed)
        assert torch.equal(mask, functional.dropout(torch.ones_like(mask), 0.2)), "the first draw of the step"
        assert set(mask.unique().tolist()) == {0.0, 1.25}


@pytest.mark.slow
def test_the_line_runs(image_folder, tmp_path):
    shutil.copy(REPOSITORY / "distributed_train.sh", tmp_path)
    line = ORIGINAL.strip().replace("/imagenet/", str(image_folder)).replace(".sh 4", ".sh 2") + " --epochs 1"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    (row,) = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["val_images"] == 12 and row["epoch"] == 1
    assert done.stderr.count("run folder: ") == 1, "one process tells what happens"


@pytest.mark.parametrize("arguments", ["", "2", "/imagenet 2", "0 /imagenet"])
def test_a_wrong_call_shows_the_right_one(arguments):
    done = subprocess.run(["bash", str(REPOSITORY / "distributed_train.sh"), *arguments.split()], capture_output=True)
    assert done.returncode == 2 and b"usage: ./distributed_train.sh PROCESSES DATA" in done.stderr


@pytest.mark.slow
def test_two_nodes(image_folder, tmp_path):
    """Two torchruns on one machine, as on two."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    small = "--model rexnet --width 0.1 --image-size 32 --batch-size 8 --epochs 1 --device cpu --output run"
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"),
                *("--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *("-m", "rexnet", "train", str(image_folder), *small.split()),
            ],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    run = tmp_path / "run"
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert json.loads((run / "metrics.jsonl").read_text())["val_images"] == 12


def test_the_documentation_has_the_line():
    flat = re.sub(r"\s+", " ", (REPOSITORY / "docs" / "train.md").read_text())
    assert re.sub(r"\s+", " ", ORIGINAL).strip() in flat
