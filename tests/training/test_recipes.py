from dataclasses import replace
from typing import get_args

import pytest
import torch

from rexnet import cli
from rexnet.cli.options import build, read_options
from rexnet.data.config import AugmentConfig
from rexnet.data.preprocess import Preprocess
from rexnet.errors import OptionError
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import model_config
from rexnet.training import checkpoint, classify
from rexnet.training.budget import Budget, follow_budget
from rexnet.training.classify import build_model
from rexnet.training.config import NetworkConfig, RecipeName, TrainConfig
from rexnet.training.distributed import World
from rexnet.training.frozen_features import check_frozen_backbone
from rexnet.training.preview import preview
from rexnet.training.recipes import (
    DECIDING,
    RECIPES,
    choose_recipe,
    digits,
    finetune,
    imagenet,
    rate_as_typed,
    starting_point,
)
from rexnet.training.resume import config_to_dict
from rexnet.training.run_folder import RunFolder
from rexnet.training.session import open_run


def test_every_recipe_name_has_its_function_and_every_config_its_name():
    assert {*RECIPES, "auto"} == set(get_args(RecipeName))
    for name, recipe in RECIPES.items():
        config = recipe()
        assert config.recipe == name
        network = config.network
        assert model_config(network.model, width=network.width, stem_stride=network.stem_stride).num_classes == 1000


def test_every_recipe_documents_its_command():
    for recipe in (*RECIPES.values(), digits):
        text = recipe.__doc__ or ""
        assert "Command: " in text and "Hardware: " in text, recipe
        assert "Expect" in text or "ntested" in text, recipe


def test_the_papers_recipe():
    config = imagenet()
    assert config.augment == AugmentConfig(
        crop_scale=(0.08, 1.0),
        auto_augment="rand-m9-mstd0.5",
        random_erasing=0.2,
        erasing_mode="pixel",
        label_smoothing=0.1,
    )
    assert (config.input.image_size, config.input.crop_ratio, config.input.interpolation) == (224, 0.875, "bicubic")
    optim = config.optim
    assert (optim.optimizer, optim.momentum, optim.weight_decay, optim.ema_decay) == ("sgd", 0.9, 1e-5, None)
    assert optim.peak_lr(4 * config.run.batch_size) == 0.5
    assert (config.schedule.epochs, config.schedule.warmup_epochs, config.schedule.min_lr) == (400, 5.0, 0.0)
    assert (config.network.drop_rate, config.network.drop_path_rate) == (0.2, 0.0)


def test_auto_looks_at_the_data_and_the_weights(image_folder, tmp_path):
    assert choose_recipe("digits", None) == "small-image"
    assert choose_recipe("torchvision/cifar10", None) == "small-image"
    assert choose_recipe(str(image_folder), None) == "small-image"
    assert choose_recipe(str(image_folder), "rexnet_100.nav_in1k") == "finetune"
    with pytest.raises(ValueError, match="does not exist"):
        choose_recipe(str(tmp_path / "missing"), None)


def test_photographs_are_trained_from_scratch(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (200, 150)).save(tmp_path / name / "0.jpg")
    assert choose_recipe(str(tmp_path), None) == "scratch"


def test_the_budget_is_that_of_the_given_options_and_kept(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (200, 150)).save(tmp_path / name / f"{number}.jpg")
    config = command_line(f"{tmp_path} --epochs 10 --batch-size 4")
    assert config.budget == {"images": 16, "epochs": 10, "batch_size": 4, "steps": 40}
    assert config.schedule.warmup_epochs == 2.0
    accumulated = command_line(f"{tmp_path} --epochs 10 --batch-size 2 --accumulate 2")
    assert (accumulated.budget, accumulated.run.accumulate) == (config.budget, 2)
    assert command_line(f"{tmp_path} --shots 3").budget["images"] == 6
    assert command_line(f"{tmp_path} --epochs 10").run.batch_size == 8
    assert command_line(f"{tmp_path} --recipe imagenet").budget == {}
    tuned = command_line(f"{tmp_path} --weights rexnet_100.nav_in1k --epochs 10 --batch-size 4")
    assert (tuned.recipe, tuned.budget, tuned.schedule) == ("finetune", config.budget, config.schedule)
    assert (tuned.optim, tuned.augment) == (replace(config.optim, lr=0.005), config.augment)
    head = command_line(f"{tmp_path} --weights rexnet_100.nav_in1k --epochs 10 --batch-size 4 --freeze all")
    assert head.optim == config.optim
    assert tuned.network.drop_rate == 0.0
    assert command_line(f"{tmp_path} --weights rexnet_100.nav_in1k --epochs 10").run.batch_size == 16
    long = command_line(f"{tmp_path} --weights rexnet_100.nav_in1k --epochs 3000 --batch-size 4")
    assert long.optim == finetune().optim


def test_help_without_data_shows_no_defaults_that_depend_on_the_budget():
    _, decided = preview(TrainConfig(), data_given=False)
    assert {"optimizer", "lr", "crop_scale", "zero_init_last", "epochs", "image_size"} <= decided.keys()


def test_warnings_about_the_data_are_logged_once(tmp_path, image_folder, caplog):
    (image_folder / "train" / "cat" / "photo.heic").write_bytes(b"x")
    command_line(f"{image_folder} --recipe scratch")
    assert not caplog.messages


def test_digits_are_never_mirrored():
    start = starting_point(TrainConfig())
    assert start.budget == {"epochs": 8, "batch_size": 32}
    assert replace(start, budget={}) == follow_budget(digits(), Budget(images=None, epochs=8, batch_size=32))
    assert digits().augment.horizontal_flip == 0.0
    assert starting_point(TrainConfig(recipe="small-image")) == start
    assert starting_point(TrainConfig(data="torchvision/cifar10")).augment.horizontal_flip == 0.5


def test_finetuning_preprocesses_images_as_the_published_weights_need():
    start = starting_point(TrainConfig(data="x", network=NetworkConfig(weights="rexnetr_200.sw_in12k_ft_in1k")))
    assert start.recipe == "finetune" and start.input.crop_ratio == 0.95


def test_own_checkpoints_set_the_network_and_its_preprocessing(tmp_path):
    config = model_config("rexnet_030", stem_stride=1, num_classes=2)
    preprocess = Preprocess(image_size_px=40, crop_ratio=0.9)
    content = checkpoint.pack(RexNet(config), classes=("a", "b"), preprocess=preprocess, metrics={})
    path = str(tmp_path / "best.pt")
    checkpoint.save(path, content)
    start = starting_point(TrainConfig(data="x", network=NetworkConfig(weights=path)))
    assert (start.network.model, start.network.stem_stride) == ("rexnet_030", 1)
    assert start.input.preprocess() == preprocess
    with pytest.raises(ValueError, match=r"--stem-stride is 2, but .*best\.pt was trained with 1"):
        build_model(NetworkConfig(model="rexnet_030", weights=path), ("a", "b"))


def test_a_run_folder_stands_for_its_checkpoint_as_weights_and_as_network(tmp_path, image_folder):
    made = RexNet(model_config("rexnet_030", stem_stride=1, num_classes=2))
    content = checkpoint.pack(made, classes=("a", "b"), preprocess=Preprocess(image_size_px=40), metrics={})
    checkpoint.save(tmp_path / "best.pt", content)
    run = str(tmp_path)
    start = starting_point(TrainConfig(data="x", network=NetworkConfig(weights=run)))
    assert (start.network.model, start.network.stem_stride) == ("rexnet_030", 1)
    model = build_model(NetworkConfig(model="rexnet_030", stem_stride=1, weights=run), ("a", "b"))
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in model.state_dict().items())

    start = starting_point(TrainConfig(data=str(image_folder), recipe="scratch", network=NetworkConfig(model=run)))
    assert start.network.stem_stride == 1
    assert build_model(NetworkConfig(model=run, stem_stride=1), ("a", "b", "c")).config.blocks == made.config.blocks


def command_line(arguments: str) -> TrainConfig:
    def start(given):
        asked = build(TrainConfig, {name: given[name] for name in DECIDING if name in given})
        given |= rate_as_typed(given, asked)
        sizes = {name: given[name] for name in ("epochs", "batch_size") if name in given}
        return starting_point(asked, **sizes)

    return read_options("train", TrainConfig, arguments.split(), start=start)


def test_an_option_may_depend_on_what_the_recipe_sets():
    assert command_line("digits --recipe imagenet --erasing-mode const").augment.erasing_mode == "const"
    with pytest.raises(OptionError, match="--erasing-mode"):
        command_line("digits --recipe scratch --random-erasing 0 --erasing-mode const")
    with pytest.raises(OptionError, match="--recipe finetune needs initial weights"):
        command_line("digits --recipe finetune")


@pytest.mark.parametrize("words", ["", " --recipe auto"])
def test_the_chosen_recipe_is_kept(words, monkeypatch):
    trained = []
    monkeypatch.setattr(classify, "train", lambda config, *_, **__: trained.append(config) or {"run": "x"})
    cli.main(["train", *f"digits{words}".split()])
    assert trained[0].recipe == "small-image"


def test_options_override_the_recipe_and_nothing_else():
    config = command_line("digits --lr 0.3 --epochs 2")
    base = command_line("digits --epochs 2")
    assert base.schedule.epochs == 2
    assert config == replace(base, optim=replace(base.optim, lr=0.3, lr_batch=0))


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("", 0.02),
        (" --epochs 99", 0.05),
        (" --epochs 99 --lr-batch 16", 0.2),
        (" --lr 0.1", 0.1),
        (" --lr 0.1 --lr-batch 64", 0.05),
    ],
)
def test_a_given_learning_rate_is_used_unchanged(words, rate):
    config = command_line(f"digits{words} --batch-size 32")
    assert config.optim.peak_lr(32) == pytest.approx(rate)


@pytest.mark.parametrize("none", ["none", "None"])
def test_none_is_typed_in_either_case(none):
    config = command_line(f"digits --ema-decay={none} --auto-augment {none} --decay-milestones {none}")
    assert (config.optim.ema_decay, config.augment.auto_augment, config.schedule.decay_milestones) == (None,) * 3


def test_a_resumed_run_keeps_its_given_rate(tmp_path):
    """Runs of older versions scaled a typed rate."""
    old = command_line("digits --lr 0.3 --lr-batch 64 --epochs 2")
    RunFolder(tmp_path).write("config.json", config_to_dict(old))
    assert command_line(f"digits --lr 0.3 --epochs 2 --resume {tmp_path}").optim == old.optim


def test_a_frozen_backbone_needs_no_other_option():
    line = "digits --weights rexnet_100.nav_in1k --freeze all"
    assert command_line(line).augment == AugmentConfig()
    check_frozen_backbone(command_line(line))
    with pytest.raises(ValueError, match="--auto-augment is rand-m5"):
        check_frozen_backbone(command_line(f"{line} --auto-augment rand-m5"))
    assert command_line("digits --weights rexnet_100.nav_in1k --freeze 3").transfer.freeze == 3


def test_resuming_needs_no_other_option(tiny_config):
    run = open_run(tiny_config, World(device=torch.device("cpu")))
    for line in (f"--resume {run.path}", f"--resume --output {run.path}", f"{tiny_config.data} --resume {run.path}"):
        config = command_line(line)
        assert open_run(config, World(device=torch.device("cpu"))).path == run.path
    with pytest.raises(ValueError, match=r"--epochs 9 \(was 3\)"):
        open_run(command_line(f"--resume {run.path} --epochs 9"), World(device=torch.device("cpu")))
