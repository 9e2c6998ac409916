"""`rexnet train --weights auto` with a hub of the tests' own: caches with made-up files, hosts that do not answer."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from rexnet import cli
from rexnet.errors import DamagedFileError, NotDownloadedError, OptionError, WeightsError
from rexnet.models.published import PUBLISHED
from rexnet.training import initial_weights
from rexnet.training.classify import train
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.initial_weights import choose_weights, describe_choice, keep_weights
from rexnet.training.preview import preview
from rexnet.training.recipes import starting_point
from tests.hub_caches import put_in_hub_cache, put_in_torch_cache

NAME = "rexnet_100.nav_in1k"
SOME = {"weight": torch.zeros(2)}


@pytest.fixture
def photos(tmp_path) -> str:
    for split in ("train", "val"):
        for label, name in enumerate(("a", "b")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (100, 80), (200 * label, 20 * number, 0)).save(folder / f"{number}.png")
    return str(tmp_path / "photos")


def asked(data: str, recipe="auto", **network) -> TrainConfig:
    return TrainConfig(data=data, recipe=recipe, network=NetworkConfig(**{"weights": "auto", **network}))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hubs_cache_decides_weights_and_recipe(caches, no_sockets, photos):
    path = put_in_hub_cache(caches, NAME, SOME)
    for model in ({}, {"model": "rexnet", "width": 1.0}):
        start = starting_point(asked(photos, **model))
        assert (start.recipe, start.network.weights, start.budget["images"]) == ("finetune", NAME, 6)
        assert start.initial_weights == {"name": NAME, "sha256": sha256(path)}
        assert start.input.image_size == 224
    assert starting_point(asked(photos, "finetune")).network.weights == NAME
    assert no_sockets == []


def test_a_file_put_into_torchs_cache_is_found(caches, no_sockets, photos, monkeypatch):
    path = put_in_torch_cache(caches, "rexnet_130.timm_release", SOME, monkeypatch)
    start = starting_point(asked(photos, model="rexnet_130"))
    assert start.initial_weights == {"name": "rexnet_130.timm_release", "sha256": sha256(path)}
    assert no_sockets == []


def test_offline_one_line_names_the_better_weights_and_where_to_put_them(caches, no_sockets, photos):
    start = starting_point(asked(photos))
    assert (start.recipe, start.network.weights, start.budget["images"]) == ("scratch", None, 6)
    chosen = start.initial_weights
    assert chosen["name"] == "none" and "could not be downloaded" in chosen["reason"] and no_sockets
    line, row = describe_choice(start, resumed=False), PUBLISHED["rexnet_100.timm_release"]
    place = caches / "torch" / "hub" / "checkpoints" / row.file
    assert line.startswith("weights: none, training starts from scratch: ") and "weights would be better" in line
    assert row.address in line and repr(str(place)) in line and "\n" not in line
    assert "by hand" not in describe_choice(start, resumed=True)
    with pytest.raises(OptionError, match=r"--recipe finetune .*could not be downloaded"):
        starting_point(asked(photos, "finetune"))
    assert "--weights FILE" in describe_choice(choose_weights(asked(photos, model="rexnet_300")), resumed=False)


def test_hosts_that_do_not_answer_cost_five_seconds_together(caches, no_sockets, photos, monkeypatch):
    waited = []

    def wait(*place, patience_s):
        waited.append(patience_s)
        raise TimeoutError

    monkeypatch.setattr("rexnet.models.published.ask_hub", wait)
    monkeypatch.setattr("rexnet.models.published.ask_url", wait)
    for model, hosts in (("rexnet_100", 2), ("rexnet_300", 1), ("rexnetr_200", 1)):
        assert choose_weights(asked(photos, model=model)).network.weights is None
        assert len(waited) == hosts and sum(waited) <= 5
        waited.clear()


def test_a_download_is_announced_with_size_and_address(caches, no_sockets, photos, monkeypatch, caplog):
    def download(repository, file):
        assert caplog.messages == [f"downloading {NAME}, 19.4 MB, from https://huggingface.co/timm/{NAME}"]
        return str(put_in_hub_cache(caches, repository.removeprefix("timm/"), SOME))

    monkeypatch.setattr("rexnet.models.published.ask_hub", lambda *place, patience_s: 19_400_000)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with caplog.at_level(logging.INFO):
        chosen = choose_weights(asked(photos)).initial_weights
    assert chosen["name"] == NAME and len(chosen["sha256"]) == 64


@pytest.mark.parametrize(
    ("network", "recipe", "reason"),
    [
        ({"weights": None}, "auto", "--weights none"),
        ({}, "scratch", "--recipe scratch"),
        ({}, "imagenet", "--recipe imagenet"),
        ({"stem_stride": 1}, "auto", "--stem-stride"),
        ({"model": "rexnet_050"}, "auto", "no published weights of rexnet_050"),
        ({"model": "rexnet", "width": 0.75}, "auto", "no published weights of rexnet_075"),
        ({"model": "rexnet_lite_100"}, "auto", "in a browser"),
        ({"model": "found.json"}, "auto", "no published weights of found.json"),
    ],
)
def test_some_networks_always_start_from_scratch(caches, no_sockets, photos, network, recipe, reason):
    put_in_hub_cache(caches, NAME, SOME)
    chosen = choose_weights(asked(photos, recipe, **network))
    assert chosen.network.weights is None and reason in chosen.initial_weights["reason"]
    assert no_sockets == []


def test_small_images_always_start_from_scratch(caches, no_sockets, photos, image_folder):
    put_in_hub_cache(caches, NAME, SOME)
    for data in ("digits", "torchvision/cifar10", str(image_folder)):
        chosen = choose_weights(asked(data))
        assert chosen.network.weights is None and "64 pixels" in chosen.initial_weights["reason"]
    small = replace(asked(photos), input=replace(TrainConfig().input, image_size=64))
    assert "--image-size is 64" in choose_weights(small).initial_weights["reason"]
    assert no_sockets == []


def test_python_starts_from_scratch_unless_it_asks(photos, no_sockets):
    assert TrainConfig().network.weights is None
    assert choose_weights(TrainConfig(data=photos)).initial_weights == {"name": "none", "reason": "--weights none"}
    assert no_sockets == []


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_cache_only(caches, no_sockets, photos, by, monkeypatch):
    options = {"weights_cache_only": by == "option"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", by == "environment")
    assert "not in the cache" in choose_weights(asked(photos, **options)).initial_weights["reason"]
    for typed in (NAME, "rexnet_100.timm_release"):
        with pytest.raises(NotDownloadedError, match="not in the cache"):
            choose_weights(asked(photos, weights=typed, **options))
    put_in_hub_cache(caches, NAME, SOME)
    assert choose_weights(asked(photos, **options)).network.weights == NAME
    assert no_sockets == []


def test_a_damaged_file_stops_the_run(caches, no_sockets, photos, monkeypatch):
    path = put_in_hub_cache(caches, NAME, SOME)
    blob = path.parents[2] / "blobs" / sha256(path)
    blob.parent.mkdir()
    path.rename(blob)
    path.symlink_to(blob)
    assert choose_weights(asked(photos)).network.weights == NAME
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedFileError, match=r"sha256 .*delete the file"):
        starting_point(asked(photos))
    path = put_in_torch_cache(caches, "rexnet_130.timm_release", SOME, monkeypatch)
    path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"sha256 .*delete the file"):
        starting_point(asked(photos, model="rexnet_130"))


def test_help_decides_by_the_cache_alone(caches, no_sockets, photos):
    base, decided = preview(asked(photos), data_given=True)
    assert base.recipe == "scratch" and "tries to download the weights of rexnet_100" in decided["weights"]
    base, decided = preview(asked("digits"), data_given=True)
    assert base.recipe == "small-image" and "here none: images of at most 64" in decided["weights"]
    assert preview(asked("https://example.org/x.tar"), data_given=True)[1]["weights"] == "default: auto"
    put_in_hub_cache(caches, NAME, SOME)
    base, decided = preview(asked(photos), data_given=True)
    assert (base.recipe, base.network.weights) == ("finetune", NAME) and f"here {NAME}" in decided["weights"]
    assert no_sockets == []


def run_cli(*arguments) -> None:
    cli.main(["train", *arguments, "--device", "cpu", "--threads", "1"])


def test_a_run_keeps_its_weights(caches, no_sockets, photos, caplog, capsys, tmp_path):
    put_in_hub_cache(caches, NAME, timm.create_model("rexnet_100").state_dict())
    run = tmp_path / "run"
    few = ("--epochs", "1", "--batch-size", "3", "--image-size", "70", "--freeze", "all")
    caplog.set_level(logging.INFO, "rexnet")
    run_cli(photos, *few, "--output", str(run))
    config = json.loads((run / "config.json").read_text())
    chosen = config["initial_weights"]
    assert config["network"]["weights"] == chosen["name"] == NAME and config["recipe"] == "finetune"
    assert caplog.messages[0] == f"weights: {NAME} (sha256 {chosen['sha256']})"

    # Continued without any file, and refused where another one is named with the same name.
    (cached,) = (caches / "hub").glob("*/snapshots/*/*")
    content = cached.read_bytes()
    cached.unlink()
    caplog.clear()
    run_cli("--resume", str(run), "--weights", "auto")
    assert caplog.messages[0] == f"weights: {NAME} (sha256 {chosen['sha256']})"
    cached.write_bytes(content + b" ")
    with pytest.raises(SystemExit):
        run_cli("--resume", str(run), "--weights", NAME)
    assert "sha256" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_cli("--resume", str(run), "--weights", "none", "--freeze", "0")
    assert f"--weights None (was {NAME})" in capsys.readouterr().err

    # Before its first checkpoint a run reads them again.
    for file in (*run.glob("*.pt"), run / "metrics.jsonl", run / "summary.json"):
        file.unlink()
    with pytest.raises(SystemExit):
        run_cli("--resume", str(run))
    assert "the run started from" in capsys.readouterr().err
    assert no_sockets == []


def test_a_run_of_an_older_version_has_no_recorded_weights(tiny_config, changed, tmp_path):
    train(changed(tiny_config, "schedule", epochs=1))
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("initial_weights") == {"name": "none", "reason": "--weights none"}
    path.write_text(json.dumps(values))
    started = starting_point(replace(asked("x"), run=replace(tiny_config.run, resume=True)))
    assert started.network.weights is None and started.initial_weights == {}
    train(replace(started, run=replace(tiny_config.run, resume=True)))


def test_weights_by_name_are_recorded_by_hash(tiny_config, changed, trained_run, caplog):
    config = changed(tiny_config, "network", weights=str(trained_run), width=0.2, drop_path_rate=0.0)
    config = changed(config, "schedule", epochs=1)
    digest = sha256(trained_run / "best.pt")
    train(config)
    values = json.loads(Path(config.run.output or "", "config.json").read_text())
    assert values["initial_weights"] == {"name": str(trained_run), "sha256": digest}


def test_weights_that_change_between_choice_and_reading_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(SOME, path)
    config = choose_weights(asked("digits", weights=str(path)))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="the run started from"):
        initial_weights.read_checked(config.network, config.initial_weights["sha256"])


@pytest.mark.slow
def test_the_main_process_chooses_for_all(photos, tmp_path):
    """Every process has a cache of its own: only that of the main process has weights."""
    put_in_hub_cache(tmp_path / "0", NAME, SOME)
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os, sys
        from huggingface_hub import constants
        constants.HF_HUB_CACHE = os.path.join({str(tmp_path)!r}, os.environ["RANK"], "hub")
        from rexnet.training.config import NetworkConfig, TrainConfig
        from rexnet.training.distributed import joined
        from rexnet.training.recipes import starting_point
        start = starting_point(TrainConfig(data={photos!r}, network=NetworkConfig(weights="auto")))
        with joined("cpu") as world:
            assert world.size == 2 and world.gather([start.initial_weights]) == [start.initial_weights] * 2
        open(f"{{sys.argv[1]}}-{{os.environ['RANK']}}", "w").write(f"{{start.recipe}} {{start.network.weights}}")
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"out-{rank}").read_text() for rank in (0, 1)] == [f"finetune {NAME}"] * 2


def test_tests_have_no_network():
    """Nothing here waits for a host: neither this process nor the programs that it starts."""
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"


def test_weights_are_chosen_once_for_any_number_of_epochs(tiny_config, changed):
    config = replace(changed(tiny_config, "network", weights="a.pt"), initial_weights={"name": "a.pt", "sha256": "1"})
    assert keep_weights(changed(tiny_config, "schedule", epochs=2), chosen=config) == changed(
        config, "schedule", epochs=2
    )
