"""The command line as a user meets it: in a process of its own."""

import csv
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet import cli
from rexnet.cli.options import read_options
from rexnet.training.config import RunConfig, TrainConfig
from tests.drawings import draw


def run_rexnet(*arguments, cwd, expect=0):
    command = [sys.executable, "-m", "rexnet", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_train_validate_predict_on_a_folder(image_folder, tmp_path, monkeypatch):
    small = ("--model", "rexnet", "--width", "0.3", "--image-size", "32", "--batch-size", "8", "--threads", "1")
    trained = run_rexnet("train", image_folder, *small, "--epochs", "2", "--output", "run", cwd=tmp_path)
    run = tmp_path / "run"
    made = {"config.json", "environment.json", "metrics.jsonl", "summary.json", "curves.png", "best.pt", "last.pt"}
    assert made <= {path.name for path in run.iterdir()}
    assert "rexnet predict" in trained.stdout
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2

    measured = run_rexnet("validate", run / "best.pt", image_folder, cwd=tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert f"12 images  top-1 {summary['best']['val_top1']:.2f} %" in measured.stdout

    odd = tmp_path / "odd name,\n1.jpg"
    draw("cat", 7).save(odd)
    few = ("predict", run / "best.pt", odd, image_folder / "val", "--csv", "--threads", "1")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("HOME", str(tmp_path))
        predicted = run_rexnet(*few, cwd=tmp_path)
        assert "engine: torch fp32, not measured" in predicted.stderr and "--backend" in predicted.stderr
        many = run_rexnet(*few, image_folder / "train", cwd=tmp_path)
        assert "engine, measured now: " in many.stderr
        assert "measured" not in run_rexnet(*few, cwd=tmp_path).stderr, "the choice is cached"
    rows = list(csv.DictReader(predicted.stdout.splitlines(keepends=True)))
    assert len(rows) == 13 and rows[0]["image"] == str(odd)
    assert {row["class_1"] for row in rows} <= {"cat", "dog", "fox"}

    again = run_rexnet("train", image_folder, *small, "--epochs", "2", "--output", "run", cwd=tmp_path, expect=1)
    assert again.stderr.startswith("rexnet: ") and "--overwrite" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "validate", "predict", "report", "data check", "data shard"])
def test_help_shows_no_empty_default(command, capsys, caplog):
    caplog.set_level(logging.INFO, "rexnet")  # which puts back at the end what the command sets
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--" in shown and "(default: )" not in shown


@pytest.mark.parametrize("words", [["--tensorboard"], ["--no-channels-last"], ["--no-tensorboard", "--channels-last"]])
@pytest.mark.parametrize("saved", [RunConfig(), RunConfig(tensorboard=True, channels_last=False)])
def test_a_flag_means_the_same_for_any_run_to_resume(words, saved):
    run = read_options("train", TrainConfig, words, start=lambda given: TrainConfig(run=saved)).run
    for word in words:
        name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
        assert getattr(run, name) != word.startswith("--no-")


@pytest.mark.parametrize("first", ["data", "detect", "study", "search"])
def test_a_command_group_alone_lists_its_commands(first, capsys):
    for arguments in ([first], [first, "--help"]):
        cli.main(arguments)
        listed = [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("  rexnet ")]
        assert [f"{first} {name}" for name in listed] == [name for name in cli.COMMANDS if name.startswith(f"{first} ")]
    with pytest.raises(SystemExit) as stop:
        cli.main([first, "nonsense"])
    assert stop.value.code == 2 and f"{first} nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--imgsz", "32"], "--image-size"),
        (["detect", "train", "--imgsz", "32"], "--min-size"),
        (["detect", "train", "--width", "0.3"], "rexnet_050"),
        (["search", "run", "--trials", "3"], "--candidates"),
        (["detect", "predict", "--output", "x"], "--out"),
        (["train", "--lr0=1"], "--lr"),
        (["predict", "--source", "a.jpg"], "the images themselves"),
        (["train", "digits", "--model", "rexnet100"], "did you mean rexnet_100"),
        (["train", "digits", "--latency-budget-ms", "10"], "rexnet fit-budget"),
    ],
)
def test_options_of_other_packages_and_removed_ones_get_a_hint(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and expected in capsys.readouterr().err.splitlines()[-1]


def test_help_and_version_are_quick_and_name_every_command(tmp_path):
    shown = run_rexnet("--help", cwd=tmp_path).stdout
    assert all(f"rexnet {name} " in shown for name in cli.COMMANDS)
    assert [shown.index(title) for title in cli.GROUPS] == sorted(shown.index(title) for title in cli.GROUPS)
    assert run_rexnet("--version", cwd=tmp_path).stdout.strip()
    script = "import rexnet, rexnet.cli, sys; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_help_ends_silently_if_its_reader_has_left(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rexnet", "--help"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.seconds
def test_models_lists_every_variant(tmp_path):
    shown = run_rexnet("models", cwd=tmp_path).stdout
    assert "rexnet_plain" in shown and "rexnet_lite_150" in shown and "rexnet_100.nav_in1k" in shown


@pytest.mark.seconds
def test_the_exit_code_of_data_check_reports_findings(image_folder, tmp_path):
    shown = run_rexnet("data", "check", image_folder, cwd=tmp_path)
    assert "48 images" in shown.stdout and not shown.stderr
    for number in range(7):
        (image_folder / "train" / "cat" / f"bad {number}\n.jpg").write_text("not an image")
    shown = run_rexnet("data", "check", image_folder, "--output", "report.json", cwd=tmp_path, expect=1)
    assert "and 2 more; --output FILE writes them all" in shown.stdout and "Traceback" not in shown.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["unreadable"]) == 7 and not report["clean"]
    assert all("\n" not in row["image"] for row in report["unreadable"])


@pytest.mark.slow
def test_shards_train_and_validate_like_a_folder(image_folder, tmp_path):
    packed = run_rexnet("data", "shard", image_folder, "packed", "--images-per-shard", "10", cwd=tmp_path)
    assert "train: 36 images in 4 tars" in packed.stdout and "rexnet train packed" in packed.stdout
    small = ("--model", "rexnet", "--width", "0.3", "--image-size", "32", "--batch-size", "8", "--threads", "1")
    straight = run_rexnet("train", "packed", *small, "--epochs", "2", "--output", "run", "--workers", "2", cwd=tmp_path)
    assert "rexnet predict" in straight.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"] == "packed: 36 train / 12 val images of 3 classes (train/, val/)"
    for data in ("packed", image_folder):
        measured = run_rexnet("validate", "run/best.pt", data, cwd=tmp_path).stdout
        assert f"12 images  top-1 {summary['best']['val_top1']:.2f} %" in measured


@pytest.mark.slow
@pytest.mark.parametrize("command", [("check", "in"), ("shard", "in", "out", "--images-per-shard", "50")])
def test_ctrl_c_ends_data_commands_at_once(command, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    for label in ("a", "b"):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / label / "0.png")
        for number in range(1, 2000):
            (tmp_path / "in" / label / f"{number}.png").symlink_to("0.png")
    arguments = [sys.executable, "-m", "rexnet", "data", *command, "--workers", "2"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(children.read_text().split()) < 2:  # until both workers are there
        time.sleep(0.01)
    assert process.poll() is None, "too quick for this test"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.splitlines()[-1] == "rexnet: stopped" and "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("trian",), 2, "did you mean train?"),
        (("train", "--epocs", "3"), 2, "--epochs"),
        (("predict",), 2, "MODEL"),
        (("models", "--json"), 2, "takes no options"),
        (("data", "chekc"), 2, "data check"),
        (("data", "check"), 2, "DATA"),
        (("data", "check", "no/such/folder"), 1, "no/such/folder"),
        (("data", "check", "digits", "--min-size-px", "0"), 2, "--min-size-px is 0; allowed: 1 or more"),
        (("data", "shard", "digits"), 2, "OUTPUT"),
        (("data", "shard", ".", "x"), 1, "lies in"),
        (("train", "no/such/folder"), 1, "no/such/folder"),
        (("train", "digits", "--lr", "-1"), 2, "rexnet: --lr is -1.0; allowed: above 0"),
        (("train", "--optimizer", "sgdd"), 2, "--optimizer is 'sgdd'; allowed: timm's"),
        (("train", "--auto-augment", "randd"), 2, "--auto-augment is 'randd', which timm does not know; allowed"),
        (("train", "--min-lr", "7"), 2, "--min-lr is 7; allowed: at most the learning rate"),
        (("train", "--crop-scale", "0", "2"), 2, "--crop-scale is (0.0, 2.0); allowed"),
        (("train", "--image-size", "0"), 2, "--image-size is 0; allowed: 8 or more"),
        (("predict", "no.pt", ".", "--top-k", "0"), 2, "--top-k is 0; allowed: 1 or more"),
        (("predict", "no.pt", ".", "--output", "no/folder.json"), 1, "there is no folder 'no'"),
        (("validate", "no.pt", "digits", "--output", "."), 1, "--output is '.', a folder"),
        (("train", "digits", "--model", "resnet50"), 2, "--model: there is no network, file or folder 'resnet50'"),
        (("train", "no/such/folder", "--model", "resnet50"), 2, "--model: there is no network, file or folder"),
        (("train", "no/such/folder", "--width", "0.3"), 2, "'rexnet_100' has its width in its name"),
        (
            ("detect", "train", "no/such/folder", "--model", "resnet50"),
            2,
            "--model: there is no network, file or folder",
        ),
        (("train", "digits", "--model", "rexnet", "--width", "0"), 2, "rexnet: width is 0; allowed: above 0"),
        (("train", "digits", "--freeze", "3"), 2, "rexnet: --freeze is 3; allowed: 0, because without --weights"),
        (("train", "digits", "--device", "cuda:9"), 1, "allowed on this machine"),
        (("validate", "no.pt", "digits"), 1, "no.pt"),
        (("predict", "rexnet_100.nav_in1k", "."), 1, "contains no images"),
        (("report",), 2, "RUN"),
        (("report", "."), 2, "is not a run folder"),
    ],
)
def test_mistakes_get_one_sentence_and_an_exit_code(arguments, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == code and said.lower() in error.lower()
    if code == 1:
        assert len(error.strip().splitlines()) == 1 and error.startswith("rexnet: ")
    assert not (tmp_path / "runs").exists(), "a refused command leaves nothing behind"


def _write_to_a_full_disk(arguments):
    from rexnet.files import write_whole

    write_whole(arguments[0], "x")


def _open_a_folder(arguments):
    Path(arguments[0]).write_bytes(b"x")


@pytest.mark.parametrize(
    ("command", "file", "said"),
    [(_write_to_a_full_disk, "/dev/full", "no space left on device"), (_open_a_folder, "/dev", "is a directory")],
)
def test_an_error_of_the_system_names_the_file_and_no_number(command, file, said, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "write", command)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["write", file])
    assert capsys.readouterr().err == f"rexnet: {file}: {said}\n"


@pytest.mark.parametrize(("format", "encoding", "printed"), [("text", "cp1252", "??"), ("csv", "utf-8", "猫é")])
def test_a_console_without_a_character_still_gets_the_results(format, encoding, printed, monkeypatch):
    from rexnet.deploy import predict

    class Found:
        error = None

    monkeypatch.setattr(predict, "predict_files", lambda config: [Found()])
    monkeypatch.setattr(predict, "render", lambda predictions, format: "猫é\n" if format == "csv" else "猫猫\n")
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "stdout", console)
        cli.main(["predict", "rexnet_100.nav_in1k", "."] + (["--csv"] if format == "csv" else []))
    console.flush()
    assert console.buffer.getvalue().decode(encoding) == f"{printed}\n"


def test_a_name_in_an_error_keeps_its_spaces(capsys):
    with pytest.raises(SystemExit):
        cli.main(["data", "check", "no  such   folder"])
    assert "no  such   folder" in capsys.readouterr().err


def test_a_printed_command_can_be_pasted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("rexnet.data.boxes.shapes.draw_shapes", lambda *args, **options: {"train": 2})
    cli.main(["detect", "demo", str(tmp_path / "my shapes")])
    command = capsys.readouterr().out.splitlines()[-1].partition("use it: ")[2]
    assert shlex.split(command) == ["rexnet", "detect", "train", str(tmp_path / "my shapes"), "--detector", "mask_rcnn"]
