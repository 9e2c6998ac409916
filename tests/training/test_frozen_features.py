import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rexnet import cli
from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.loaders import Batch
from rexnet.deploy.config import ValidateConfig
from rexnet.deploy.validate import validate
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import open_features
from rexnet.models.factory import create_model
from rexnet.training import checkpoint, classify, frozen_features
from rexnet.training.classify import classification_task, train
from rexnet.training.config import TransferConfig
from rexnet.training.distributed import World
from rexnet.training.feature_file import FILE, Features
from rexnet.training.freezing import prepare
from rexnet.training.frozen_features import FeatureBatches
from rexnet.training.loop import fit
from rexnet.training.run_folder import RunFolder
from tests.networks import with_trained_norms

WORLD = World(device=torch.device("cpu"))


@pytest.fixture
def config(tiny_config, tiny_preprocess, tmp_path, changed):
    """A run of the head alone on a random backbone, which stands for a trained one."""
    torch.manual_seed(1)
    source = create_model("rexnet", width=0.1, stem_stride=1, num_classes=2)
    for name, buffer in source.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    path = tmp_path / "backbone.pt"
    checkpoint.save(path, checkpoint.pack(source, {}, classes=("x", "y"), preprocess=tiny_preprocess))
    config = replace(
        tiny_config,
        augment=AugmentConfig(horizontal_flip=0.0, label_smoothing=0.1),
        transfer=TransferConfig(freeze="all"),
    )
    return changed(config, "network", weights=str(path), drop_path_rate=0.0)


class ImagesAsEvaluated:
    """The batches of `order` without augmentation."""

    def __init__(self, images, pixels, order):
        self.images, self.pixels, self.order = images, pixels, order
        self.images_per_batch, self.num_images = order.images_per_batch, order.num_images

    def __len__(self):
        return len(self.order)

    def epoch(self, epoch, start_step=0):
        for positions in self.order.positions(epoch)[start_step:]:
            images = torch.stack([self.pixels(self.images.load(index)) for index in positions.tolist()])
            yield Batch(images, torch.from_numpy(self.images.targets[positions]), torch.from_numpy(positions))


def slow_way(config, run: RunFolder) -> None:
    """The same training with the features computed anew for each batch."""
    sets = open_dataset(config.data).for_training()
    torch.manual_seed(config.run.seed)
    model = classify.build_model(config.network, sets.classes)
    prepare(model, config.transfer, pretrained=True, images_per_batch=config.run.batch_size)
    order, val = classify._make_batches(sets.train, sets.val, config=config, world=WORLD)
    batches = ImagesAsEvaluated(sets.train, config.input.preprocess(), order)
    run.path.mkdir()
    fit(model, batches, classification_task(sets, val, config, world=WORLD), config=config, run=run, world=WORLD)


@pytest.mark.seconds
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_head_equals_that_of_training_without_stored_features(config, changed, tmp_path, ema_decay):
    config = changed(config, "optim", ema_decay=ema_decay)
    train(config)
    fast, slow = RunFolder(config.run.output), RunFolder(tmp_path / "slow")
    slow_way(config, slow)
    one, two = checkpoint.read(fast.last), checkpoint.read(slow.last)
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(value, two["state_dict"][key], rtol=1e-4, atol=1e-6, msg=key)
    start = checkpoint.read(config.network.weights)["state_dict"]
    for key, value in one["state_dict"].items():
        assert torch.equal(value, start[key]) == key.startswith("features."), key
    for row, expected in zip(fast.rows(), slow.rows(), strict=True):
        assert row["val_top1"] == expected["val_top1"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def test_the_checkpoint_holds_the_whole_network(config):
    best = train(config)["best"]
    run = RunFolder(config.run.output)
    found = validate(ValidateConfig(checkpoint=str(run.best), data=config.data, device="cpu", batch_size=5))
    assert found["top1"] == best["val_top1"] and found["loss"] == pytest.approx(best["val_loss"], rel=1e-5)


def train_until_killed(config, monkeypatch, **options):
    """Train up to the middle of the second epoch."""
    calls, plain = iter(range(100)), frozen_features.Head.forward

    def dies(network, images):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return plain(network, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frozen_features.Head, "forward", dies)
        train(replace(config, run=replace(config.run, save_minutes=1e-9)), **options)


@pytest.mark.seconds
def test_a_resumed_run_takes_backbone_and_features_from_its_folder(config, changed, monkeypatch, tmp_path):
    config = changed(config, "augment", horizontal_flip=0.5)
    straight = changed(config, "run", output=str(tmp_path / "straight"))
    train(straight)
    train_until_killed(config, monkeypatch)
    Path(config.network.weights).unlink()
    monkeypatch.setattr(frozen_features, "compute_features", None)
    train(changed(config, "run", resume=True))
    one, two = (checkpoint.read(RunFolder(each.run.output).last)["state_dict"] for each in (straight, config))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.fixture
def native():
    if reason := why_missing():
        pytest.skip(reason)
    return open_features


@pytest.mark.seconds
@pytest.mark.parametrize("model", ["rexnet", "rexnet_lite"])
def test_the_native_engine_computes_the_same_features(config, changed, native, tmp_path, model, caplog):
    torch.manual_seed(1)
    source = with_trained_norms(create_model(model, width=0.1, stem_stride=1, num_classes=2))
    content = checkpoint.pack(source, {}, classes=("x", "y"), preprocess=config.input.preprocess())
    checkpoint.save(config.network.weights, content)
    config = changed(changed(config, "network", model=model), "augment", horizontal_flip=0.5)
    caplog.set_level(logging.INFO)
    found, weights = {}, {}
    for name, engine in (("torch", None), ("native", native)):
        config = changed(config, "run", output=str(tmp_path / name))
        train(config, native=engine)
        run = RunFolder(config.run.output)
        found[name], weights[name] = load_file(run.path / FILE), checkpoint.read(run.last)["state_dict"]
        assert run.read("environment.json")["features_engine"] == name and f"engine: {name}, computed" in caplog.text
    for key, expected in found["torch"].items():
        assert (found["native"][key] - expected).abs().max() <= 1e-4 * expected.abs().max()
    for key, expected in weights["torch"].items():
        torch.testing.assert_close(weights["native"][key], expected, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.seconds
@pytest.mark.parametrize("lost", [False, True])
def test_a_run_resumed_without_the_engine_reads_its_features_or_warns(
    config, changed, native, monkeypatch, tmp_path, caplog, lost
):
    straight = changed(config, "run", output=str(tmp_path / "straight"))
    train(straight, native=native)
    train_until_killed(config, monkeypatch, native=native)
    if lost:
        (Path(config.run.output) / FILE).unlink()
    train(changed(config, "run", resume=True))
    one, two = (checkpoint.read(RunFolder(each.run.output).last)["state_dict"] for each in (straight, config))
    warned = "were computed by native, and now by torch" in caplog.text
    assert warned == lost and all(torch.equal(one[key], two[key]) for key in one) != lost
    assert RunFolder(config.run.output).read("environment.json")["features_engine"] == ("torch" if lost else "native")


@pytest.mark.seconds
@pytest.mark.parametrize("turned_off", ["", "0"])
def test_the_command_uses_the_native_engine(config, native, monkeypatch, turned_off):
    monkeypatch.setenv("REXNET_NATIVE", turned_off)
    run, given = RunFolder(config.run.output), ("--weights", config.network.weights, "--output", config.run.output)
    cli.main(["train", config.data, *given, "--freeze", "all", "--epochs", "1", "--device", "cpu", "--threads", "1"])
    assert run.read("environment.json")["features_engine"] == ("torch" if turned_off else "native")


@pytest.mark.parametrize("setting", [{"amp": "bf16"}, {}])
def test_the_native_engine_is_used_in_full_precision_where_it_runs(config, changed, setting):
    asked = []
    train(changed(config, "run", **setting), native=asked.append)
    assert len(asked) == (not setting)
    assert RunFolder(config.run.output).read("environment.json")["features_engine"] == "torch"


@pytest.mark.seconds
@pytest.mark.parametrize("damage", ["bytes", "pixels", "weights"])
def test_features_of_something_else_are_never_used(config, changed, damage, tmp_path, caplog):
    train(config)
    run = RunFolder(config.run.output)
    if damage == "bytes":
        (run.path / FILE).write_bytes((run.path / FILE).read_bytes()[:-200])
    elif damage == "pixels":
        config = changed(config, "input", crop_ratio=0.5)
    else:
        content = checkpoint.read(config.network.weights)
        content["state_dict"]["features.0.weight"] *= 2
        checkpoint.save(config.network.weights, content)
    for name in ("config.json", "last.pt", "previous.pt", "metrics.jsonl", "best.pt"):
        (run.path / name).unlink(missing_ok=True)
    caplog.set_level(logging.INFO)
    other = changed(config, "run", output=str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    train(other)
    target = RunFolder(other.run.output)
    fresh = (target.path / FILE).read_bytes()
    (target.path / FILE).write_bytes((run.path / FILE).read_bytes())
    (target.path / "last.pt").unlink()
    (target.path / "previous.pt").unlink()
    (target.path / "metrics.jsonl").unlink()
    train(changed(other, "run", resume=True))
    assert (target.path / FILE).read_bytes() == fresh
    assert "computed and written" in caplog.text


def test_unreadable_images_are_skipped_and_named(config, changed, image_folder):
    (image_folder / "train" / "dog" / "0.jpg").write_bytes(b"no image")
    (image_folder / "val" / "fox" / "0.jpg").write_bytes(b"")
    summary = train(changed(config, "input", bad_image="skip"))
    assert [Path(name).parts[-3:] for name in summary["skipped"]] == [
        ("train", "dog", "0.jpg"),
        ("val", "fox", "0.jpg"),
    ]
    assert summary["best"]["val_images"] == 11


def test_mirrored_images_are_a_second_view_drawn_each_epoch():
    count = 40
    values = torch.stack([torch.arange(float(count)), -torch.arange(float(count))])[..., None]
    targets = torch.arange(count).numpy() % 3

    class Order:
        images_per_batch, num_images = 8, count

        def __len__(self):
            return 5

        def positions(self, epoch):
            return list(torch.arange(count).view(5, 8).numpy())

    def batches(mirror: float) -> FeatureBatches:
        features = Features(values, torch.ones(count))
        return FeatureBatches(features, targets, order=Order(), seed=0, rank=0, mirror=mirror)

    def shares(epoch: int, mirror: float) -> list[bool]:
        return [bool(value < 0) for batch in batches(mirror).epoch(epoch) for value in batch.images]

    assert not any(shares(0, 0.0)) and sum(shares(0, 1.0)) == count - 1
    assert shares(0, 0.5) == shares(0, 0.5) != shares(1, 0.5) and 5 < sum(shares(0, 0.5)) < 35
    late = [batch.images for batch in batches(0.5).epoch(3, 2)]
    assert all(torch.equal(one.images, other) for one, other in zip(list(batches(0.5).epoch(3))[2:], late, strict=True))


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("augment", "auto_augment", "rand-m9-mstd0.5"),
        ("augment", "random_erasing", 0.2),
        ("augment", "mixup", 0.2),
        ("augment", "crop_padding_px", 4),
        ("augment", "crop_scale", (0.5, 1.0)),
        ("optim", "layer_decay", 0.8),
        ("network", "drop_path_rate", 0.1),
        ("run", "compile", True),
    ],
)
def test_inapplicable_options_are_refused_before_anything_is_written(config, changed, group, name, value):
    with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} is .* no effect with --freeze all"):
        train(changed(config, group, **{name: value}))
    assert not Path(config.run.output).exists()


def test_more_features_than_memory_are_refused(config, monkeypatch):
    monkeypatch.setattr(frozen_features, "MAX_GIB", 1e-9)
    with pytest.raises(ValueError, match=r"take 0\.0 GiB; allowed: up to 1e-09 GiB"):
        train(config)
