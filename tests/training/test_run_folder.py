import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet.data.image_set import ArrayImages, FileImages
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.resume import config_from_dict
from rexnet.training.run_folder import RunFolder, next_free_folder
from rexnet.training.session import open_run

WORLD = World(device=torch.device("cpu"))


def test_a_new_run_writes_everything_needed_to_repeat_it(tiny_config, tmp_path):
    run = open_run(tiny_config, WORLD)
    assert run.path == tmp_path / "run"
    assert config_from_dict(TrainConfig, run.read("config.json")) == tiny_config
    environment = run.read("environment.json")
    assert environment["torch"] == str(torch.__version__) and environment["threads"] == torch.get_num_threads()
    assert {"commit", "command", "device", "python", "timm", "rexnet"} <= environment.keys()


def test_a_folder_with_a_run_is_refused_without_overwrite(tiny_config, changed):
    run = open_run(tiny_config, WORLD)
    run.last.write_bytes(b"x")
    with pytest.raises(ValueError, match="--resume continues it, --overwrite replaces it"):
        open_run(tiny_config, WORLD)
    open_run(changed(tiny_config, "run", overwrite=True, seed=9), WORLD)
    assert not run.last.exists() and run.read("config.json")["run"]["seed"] == 9


@pytest.mark.parametrize(
    ("group", "option", "name"),
    [
        ("network", {"weights": "run/best.pt"}, "best.pt"),
        ("network", {"model": "run", "width": None}, "run"),
        ("teacher", {"teacher": ("digits.pt", "link/last.pt")}, "last.pt"),
    ],
)
def test_the_weights_that_a_run_reads_are_not_replaced_by_it(
    tiny_config, changed, trained_run, tmp_path, monkeypatch, group, option, name
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "run")
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "digits.pt").touch()
    config = changed(changed(tiny_config, "run", overwrite=True), group, **option)
    with pytest.raises(ValueError, match=f"would replace .*{name}, which the run reads"):
        config.check()
    changed(config, "run", output=str(tmp_path / "other")).check()


def test_foreign_files_are_never_touched(tiny_config, changed):
    run = RunFolder(tiny_config.run.output)
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds other files"):
            open_run(changed(tiny_config, "run", overwrite=overwrite), WORLD)
    (run.path / "thesis.tex").rename(run.path.parent / "thesis.tex")
    open_run(tiny_config, WORLD)
    (run.path / "notes.txt").write_text("mine")
    open_run(changed(tiny_config, "run", overwrite=True), WORLD)
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_named(tiny_config, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run', a file; allowed"):
        open_run(tiny_config, WORLD)


def test_resume_finds_the_run_by_each_of_its_names(tiny_config, changed, tmp_path):
    run = open_run(tiny_config, WORLD)
    run.last.write_bytes(b"x")
    for resume, output in ((True, str(run.path)), (str(run.path), None), (str(run.last), None)):
        assert open_run(changed(tiny_config, "run", resume=resume, output=output), WORLD).path == run.path
    assert run.last.read_bytes() == b"x"


def test_a_run_killed_before_environment_json_writes_it_when_resumed(tiny_config, changed):
    run = open_run(tiny_config, WORLD)
    (run.path / "environment.json").unlink()
    assert open_run(changed(tiny_config, "run", resume=True), WORLD).holds("environment.json")


def test_unfinished_files_of_a_killed_run_do_not_block_the_folder(tiny_config):
    run = RunFolder(tiny_config.run.output)
    run.path.mkdir()
    (run.path / ".config.json.unfinished").write_text('{"da')
    assert open_run(tiny_config, WORLD).holds("config.json")


def test_resume_with_other_settings_is_refused_with_their_names(tiny_config, changed):
    open_run(tiny_config, WORLD)
    other = changed(changed(tiny_config, "run", resume=True, batch_size=4), "optim", lr=0.5)
    with pytest.raises(ValueError, match=r"--lr 0\.5 \(was 0\.05\), --batch-size 4 \(was 8\)"):
        open_run(other, WORLD)


def test_resume_of_a_model_folder(tiny_config, changed, tmp_path):
    (tmp_path / "config.json").write_text('{"library_name": "rexnet", "num_classes": 3}')
    with pytest.raises(ValueError, match=r"has no run settings; use --weights to start from a model"):
        open_run(changed(tiny_config, "run", resume=str(tmp_path), output=None), WORLD)


def test_resume_without_a_run(tiny_config, changed, tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        open_run(changed(tiny_config, "run", resume=str(tmp_path / "elsewhere"), output=None), WORLD)
    # The same line again and again, as a scheduler does it: the first time there is nothing yet.
    run = open_run(changed(tiny_config, "run", resume=True), WORLD)
    assert run.holds("config.json")


def test_a_broken_config_is_refused_in_one_sentence(tiny_config, changed):
    run = open_run(tiny_config, WORLD)
    (run.path / "config.json").write_text('{"data": ')
    with pytest.raises(ValueError, match=r"config\.json.*is this a run folder\?"):
        open_run(changed(tiny_config, "run", resume=True), WORLD)


def test_next_free_folder_counts_up(tmp_path):
    first = next_free_folder("rexnet_100", "torchvision/cifar10", parent=tmp_path)
    assert first == tmp_path / "rexnet_100-torchvision-cifar10-1"
    first.mkdir()
    assert next_free_folder("rexnet_100", "torchvision/cifar10", parent=tmp_path).name.endswith("-2")
    data = tmp_path / "my flowers"
    data.mkdir()
    assert next_free_folder("m", f"{data}/", parent=tmp_path).name == "m-my flowers-1"


def test_rows_survive_a_truncated_last_line_and_can_be_dropped(tmp_path):
    run = RunFolder(tmp_path)
    assert run.rows() == []
    for epoch in (1, 2, 3):
        run.append({"epoch": epoch, "train_loss": 1.0 / epoch, "lr": 0.1, "val_top1": 50.0, "train_top1": 40.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_l')
    assert [row["epoch"] for row in run.rows()] == [1, 2, 3]
    run.keep_rows(epochs=2, steps=100)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    run.draw_curves()
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and image.width > 500
    assert not list(tmp_path.glob(".*"))


def test_samples_are_saved_for_sets_without_files(tmp_path):
    run = RunFolder(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    images = ArrayImages(
        pixels, np.array([1, 1, 0, 0, 1, 0]), ("a/b", "c", "no image"), label="x", numbers=np.arange(6)
    )
    run.save_samples(images)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["a-b-2.png", "c-0.png"]
    with Image.open(tmp_path / "samples" / "c-0.png") as image:
        assert np.array_equal(np.asarray(image)[..., 0], pixels[0])
    run.save_samples(FileImages([], [], ()))


def test_names_outside_unicode_reach_json(tmp_path):
    RunFolder(tmp_path).write("data.json", {"classes": ["caf\udce9", "狐"]})
    assert RunFolder(tmp_path).read("data.json") == {"classes": ["caf\udce9", "狐"]}


def test_a_run_folder_may_be_resumed_from_where_it_was_moved(tiny_config, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = open_run(tiny_config, WORLD)
    moved = run.path.rename(tmp_path / "archive")
    resumed = replace(tiny_config, run=replace(tiny_config.run, output=None, resume=str(moved)))
    assert open_run(resumed, WORLD).path == moved


def test_a_run_that_lost_its_checkpoints_is_never_started_over_by_resume(tiny_config, changed):
    run = open_run(tiny_config, WORLD)
    for epoch in (1, 2):
        run.append({"epoch": epoch})
    run.best.write_bytes(b"weeks of work")
    again = changed(tiny_config, "run", resume=True)
    with pytest.raises(
        ValueError, match=r"2 epochs in metrics\.jsonl but no complete checkpoint.*best\.pt still exists"
    ):
        open_run(again, WORLD)
    (run.path / "metrics.jsonl").unlink()
    (run.path / "last.pt.damaged").touch()
    with pytest.raises(ValueError, match="no complete checkpoint"):
        open_run(again, WORLD)
    assert run.best.read_bytes() == b"weeks of work"


@pytest.mark.parametrize(("file", "content"), [("config.json", "[1]"), ("metrics.jsonl", "garbage\n")])
def test_a_damaged_file_is_named(tiny_config, changed, file, content):
    run = open_run(tiny_config, WORLD)
    (run.path / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{file}"):
        open_run(changed(tiny_config, "run", resume=True), WORLD)
