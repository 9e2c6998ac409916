import dataclasses
from pathlib import Path

import pytest

from rexnet.cli.options import read_options
from rexnet.data.config import AugmentConfig
from rexnet.deploy.config import ValidateConfig
from rexnet.errors import OptionError
from rexnet.training.config import (
    InputConfig,
    NetworkConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from rexnet.training.teacher_config import TeacherConfig


def parse(arguments: str, default: TrainConfig | None = None) -> TrainConfig:
    start = None if default is None else lambda given: default
    return read_options("train", TrainConfig, arguments.split(), start=start)


def test_the_stable_options_reach_their_fields(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    config = parse(
        "flowers --model rexnet_lite_100 --recipe imagenet --epochs 7 --batch-size 16 --image-size 96 --lr 0.3 "
        "--weights w.pth --device cpu --seed 5 --workers 2 --output out --optimizer adamw --momentum 0.8 "
        "--weight-decay 0.1 --warmup-epochs 2 --warmup-lr 0.001 --min-lr 0.0001 --clip-grad 1 --drop-rate 0.1 "
        "--drop-path-rate 0.2 --stem-stride 1 --ema-decay 0.99 --amp bf16 --no-channels-last --compile --threads 1 "
        "--bad-image skip --val-fraction 0.3 --shots 5 --balance loss --goal macro_f1 --patience 9 "
        "--crop-scale 0.3 1 --auto-augment rand-m9-mstd0.5 --random-erasing 0.2 "
        "--mixup 0.2 --cutmix 1 --label-smoothing 0.1"
    )
    assert config == TrainConfig(
        data="flowers",
        recipe="imagenet",
        goal="macro_f1",
        network=NetworkConfig(
            model="rexnet_lite_100", weights="w.pth", drop_rate=0.1, drop_path_rate=0.2, stem_stride=1
        ),
        input=InputConfig(image_size=96, bad_image="skip", val_fraction=0.3, shots=5, balance="loss"),
        augment=AugmentConfig(
            crop_scale=(0.3, 1.0),
            auto_augment="rand-m9-mstd0.5",
            random_erasing=0.2,
            mixup=0.2,
            cutmix=1.0,
            label_smoothing=0.1,
        ),
        optim=OptimConfig(optimizer="adamw", lr=0.3, momentum=0.8, weight_decay=0.1, clip_grad=1.0, ema_decay=0.99),
        schedule=ScheduleConfig(epochs=7, warmup_epochs=2.0, warmup_lr=0.001, min_lr=0.0001, patience=9),
        run=RunConfig(
            batch_size=16,
            seed=5,
            device="cpu",
            workers=2,
            threads=1,
            amp="bf16",
            channels_last=False,
            compile=True,
            output="out",
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [
        ("digits --output a", False),
        ("digits --output a --resume", True),
        ("--resume --output a", True),
        ("digits --output a --resume auto", True),
        ("digits --resume a", "a"),
        ("--resume a --output a", "a"),
    ],
)
def test_resume_with_and_without_a_folder(arguments, resume):
    assert parse(arguments).run.resume == resume


@pytest.mark.parametrize(
    "arguments",
    [
        "--epochs 0",
        "--balance maybe",
        "--goal top5",
        "--shots few",
        "--epoch-s 3",
        "--lr zero",
        "--amp=half",
        "--resume a b",
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_option(arguments):
    with pytest.raises(OptionError, match=arguments.partition("=")[0].split()[0]):
        parse(arguments)


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (NetworkConfig, {"stem_stride": 4}, ("--stem-stride", "4", "1, 2")),
        (NetworkConfig, {"drop_rate": 1.0}, ("--drop-rate", "1.0")),
        (NetworkConfig, {"drop_path_rate": -0.1}, ("--drop-path-rate", "-0.1")),
        (InputConfig, {"val_fraction": 1.0}, ("--val-fraction", "1.0")),
        (InputConfig, {"image_size": 7}, ("--image-size", "7", "8 or more", "padding")),
        (InputConfig, {"shots": 0}, ("--shots", "0", "1 or more")),
        (OptimConfig, {"lr": 0.0}, ("--lr", "0.0")),
        (OptimConfig, {"lr": float("nan")}, ("--lr", "nan")),
        (OptimConfig, {"lr": float("inf")}, ("--lr", "inf", "finite")),
        (ScheduleConfig, {"max_minutes": float("inf")}, ("--max-minutes", "inf", "finite")),
        (TeacherConfig, {"teacher": ("a",), "temperature": float("inf")}, ("--temperature", "inf", "finite")),
        (OptimConfig, {"lr_batch": -1}, ("--lr-batch", "-1")),
        (OptimConfig, {"momentum": 1.0}, ("--momentum", "1.0")),
        (OptimConfig, {"weight_decay": -1e-5}, ("--weight-decay", "-1e-05")),
        (OptimConfig, {"clip_grad": 0.0}, ("--clip-grad", "0.0")),
        (OptimConfig, {"ema_decay": 1.0}, ("--ema-decay", "1.0")),
        (ScheduleConfig, {"epochs": 0}, ("--epochs", "0")),
        (ScheduleConfig, {"warmup_epochs": -1.0}, ("--warmup-epochs", "-1.0")),
        (ScheduleConfig, {"min_lr": -1.0}, ("--min-lr", "-1.0")),
        (RunConfig, {"batch_size": 0}, ("--batch-size", "0", "1 or more")),
        (TrainConfig, {"run": RunConfig(batch_size=1)}, ("--batch-size", "1", "2 or more")),
        (ScheduleConfig, {"schedule": "multistep", "decay_milestones": (3, 2)}, ("--decay-milestones", "ascending")),
        (RunConfig, {"seed": -1}, ("--seed", "-1")),
        (RunConfig, {"workers": -1}, ("--workers", "-1")),
        (RunConfig, {"threads": 0}, ("--threads", "0")),
        (RunConfig, {"resume": True}, ("--resume", "folder")),
        (RunConfig, {"resume": "a", "output": "b"}, ("'a'", "'b'")),
        (RunConfig, {"resume": "a", "overwrite": True}, ("--resume", "--overwrite")),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence_with_option_value_and_remedy(kind, wrong, words):
    with pytest.raises(ValueError) as refused:
        kind(**wrong)
    sentence = str(refused.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_lr_follows_the_total_batch_by_default():
    assert OptimConfig(lr=0.5, lr_batch=512).peak_lr(128) == 0.125
    assert OptimConfig(lr=0.5, lr_batch=512).peak_lr(4 * 128) == 0.5
    assert OptimConfig(lr=0.5, lr_batch=0).peak_lr(32) == 0.5


@pytest.mark.parametrize("kind", [TrainConfig, ValidateConfig])
def test_option_names_are_unique(kind):
    names: list[str] = []
    for outer in dataclasses.fields(kind):
        group = outer.type if dataclasses.is_dataclass(outer.type) else None
        names += [inner.name for inner in dataclasses.fields(group)] if group else [outer.name]
    assert len(names) == len(set(names))


def test_help_shows_every_text(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for option in ("--image-size", "--lr-batch", "--ema-decay", "--resume [DIR]", "--crop-padding-px"):
        assert option in text
