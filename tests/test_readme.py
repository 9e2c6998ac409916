"""What the README shows is what happens."""

import re
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.drawings import draw_folder

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = ["--epochs", "1", "--model", "rexnet_030", "--image-size", "32", "--batch-size", "16", "--threads", "1"]
SMALL_DETECTION = {
    "demo": ["--images", "8", "--size-px", "64"],
    "train": ["--model", "rexnet_010", "--min-size", "64", "--epochs", "1", "--batch-size", "4", "--threads", "1"],
}
SMALL_DEPLOYMENT = {
    "quantize": ["--max-drop", "100"],
    "bench": ["--rounds", "2", "--image-size", "32", "--batch", "1", "--backends", "onnxruntime", "--no-memory"],
    "fit-budget": ["--size", "32", "--backend", "onnxruntime"],
}
SMALL_SEARCH = ["--candidates", "3", "--comparisons", "0", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(*arguments, cwd, exit_code=0):
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == exit_code, done.stderr
    return done.stdout


def serve_once(*arguments, cwd):
    """Until the server has said where it listens and answers there."""
    command = [sys.executable, "-m", *arguments, "--port", "0"]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stderr if "http://" in line)
            address = re.search(r"http://(\S+):(\d+)", line).groups()
            with closing(HTTPConnection(*address, timeout=60)) as connection:
                connection.request("GET", "/")
                page = connection.getresponse().read()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"<html" in page and process.returncode == 130


@pytest.mark.slow
def test_commands_and_python_run(tmp_path):
    """In order, in an empty folder, with small settings where the README trains; what needs a network is left out."""
    draw_folder(tmp_path / "PATH" / "TO" / "FOLDER")
    yolo = tmp_path / "PATH" / "TO" / "VOC_OR_YOLO"
    for image in draw_folder(yolo / "images").rglob("*.*"):
        labels = yolo / "labels" / image.relative_to(yolo / "images").with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("0 0.5 0.5 0.5 0.5")
    (yolo / "classes.txt").write_text("thing")
    run("-m", "rexnet", "train", "digits", *SMALL, "--output", "runs/demo", cwd=tmp_path)
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("rexnet ")]
    words = {"train", "data", "validate", "report", "predict", "detect", "study", "search"}
    words |= {"export", "serve", "card", *SMALL_DEPLOYMENT}
    assert {command[1] for command in commands} == words
    for command in commands:
        if "rexnet_100.nav_in1k" in command:
            continue
        if command[1] == "serve":
            serve_once(*command, "--backend", "torch", cwd=tmp_path)
            continue
        if "--resume" in command:
            command[-1] = str(next(tmp_path.glob("runs/*FOLDER*")))
        if command[1] == "detect":
            run("-m", *command, *SMALL_DETECTION.get(command[2], []), cwd=tmp_path)
            continue
        small = SMALL if command[1] == "train" and "--resume" not in command else []
        if "--networks" in command:
            small = ["--networks", "50", "--ratios", "0.5", "--smallest-size", "10", "--largest-size", "20"]
        small = SMALL_DEPLOYMENT.get(command[1], small)
        if command[1:3] == ["search", "run"]:
            small = SMALL_SEARCH
        # MobileNetV2 breaks the principles, which `advise` says in its exit code too.
        run("-m", *command, *small, cwd=tmp_path, exit_code=1 if "advise" in command else 0)
    for script in blocks("python"):
        run("-c", script, cwd=tmp_path)


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path):
    page = (ROOT / "docs" / "python.md").read_text()
    scripts = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    run("-c", "\n".join([*scripts, "assert [len(part) for part in maps] == [1] * 5"]), cwd=tmp_path)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
