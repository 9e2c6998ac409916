"""Everything here reads the page as a browser does: parsed."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rexnet
from rexnet.data.boxes.shapes import draw_shapes
from rexnet.data.preprocess import Preprocess
from rexnet.detection import create_detector
from rexnet.detection.checkpoints import pack
from rexnet.models.factory import create_model
from rexnet.report.config import ReportConfig
from rexnet.report.write import write_report
from rexnet.training import checkpoint
from rexnet.training.run_folder import RunFolder

BOUND_BYTES = 3_000_000
"""Of one run's section with the default number of mistakes, whatever the number of classes, images and epochs."""


class Page(HTMLParser):
    """The elements, texts and attributes of a page; fails where tags do not nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr", "path", "use"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if self._open[-1:] != ["style"] else ""

    def count(self, tag: str, **attributes: str) -> int:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(name == tag and wanted.items() <= having.items() for name, having in self.elements)

    def check_self_contained(self) -> None:
        allowed = {"img": "data:image/"}
        for name, attributes in self.elements:
            assert name not in ("script", "link", "iframe", "object", "embed", "base", "form", "a")
            for key, value in attributes.items():
                assert not key.startswith("on"), f"{name} {key}"
                if key in ("src", "href", "srcset", "action", "data"):
                    assert str(value).startswith(allowed[name])
        assert all(attributes.get("alt") for name, attributes in self.elements if name == "img")


def report(*runs: Path, output: Path, **options) -> Page:
    config = ReportConfig(runs=tuple(map(str, runs)), output=str(output), device="cpu", **options)
    page = Page(write_report(config))
    page.check_self_contained()
    assert not re.search(r"https?:|url\(|@import|//", re.sub(r'(src|title)="[^"]*"', "", output.read_text()))
    return page


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "page.html"


@pytest.fixture
def run(trained_run, tmp_path) -> RunFolder:
    """A copy of the trained run, to change."""
    return RunFolder(shutil.copytree(trained_run, tmp_path / "copy"))


def test_a_page_shows_the_results_of_a_run(trained_run, output):
    before = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}
    page = report(trained_run, output=output)
    assert before == {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}, "the run is only read"
    best = RunFolder(trained_run).read("summary.json")["best"]
    assert "images: 96 train / 12 val images of 3 classes (train/, val/). Finished after 8 of 8 epochs." in page.text
    assert "rexnet x0.2" in page.text and "100.00 %" in page.text
    assert "the run has 8 epochs." in page.text
    assert f"after epoch {best['epoch']} predicts 12 of 12 validation images correctly" in page.text
    headings = (
        "Curves",
        "Most confident mistakes",
        "Most confident correct predictions",
        "Confusion matrix",
        "Classes",
    )
    for heading in (*headings, "Where the time went", "Metrics by epoch", "Settings", "Hardware and versions"):
        assert heading in page.text
    assert page.count("div", role="img") == 4 and page.count("h1") == 1
    assert page.count("th", scope="col") and page.count("th", scope="row") and page.count("caption")
    # One right image of each class, each with one heat map.
    assert page.count("li", class_="wide2") == 3 and page.count("img") == 6 + 1 == 6 + page.count("img", class_="scale")
    assert str(torch.__version__) in page.text and "--label-smoothing" in page.text
    assert output.stat().st_size < 200_000


def test_the_page_shows_planted_wrong_labels_first(trained_run, output, tmp_path):
    data = shutil.copytree(trained_run.parent / "images" / "val", tmp_path / "data")
    (data / "cat" / "0.jpg").rename(data / "dog" / "planted.jpg")
    (data / "fox" / "0.jpg").rename(data / "cat" / "planted.jpg")
    page = report(trained_run, output=output, data=str(data))
    assert f"predicts 10 of 12 images of {data} correctly" in page.text
    shown = [Path(str(attributes["title"])) for name, attributes in page.elements if name == "small"]
    assert {path.relative_to(data).as_posix() for path in shown[:2]} == {"cat/planted.jpg", "dog/planted.jpg"}
    assert page.count("li", class_="wide3") == 2, "each with where the predicted and the right class are seen"


def test_names_are_always_escaped(run, output, tmp_path):
    nasty = ['<script>alert("1")', "\"><img src=x onerror='1'>", "caf\udce9 & co"]
    model = rexnet.load(run.best)
    metrics = checkpoint.read(run.best)["metrics"]
    # Sorted, as data would have them.
    classes = tuple(sorted(nasty))
    checkpoint.save(run.best, checkpoint.pack(model, metrics, classes=classes, preprocess=model.preprocess))
    data = tmp_path / "<b>data"
    for name, kind in zip(classes, ("cat", "dog", "fox"), strict=True):
        shutil.copytree(Path(run.read("config.json")["data"]) / "val" / kind, data / name)
    config = run.read("config.json")
    config["data"] = "<i>gone"
    run.write("config.json", config)
    run.write("data.json", {**run.read("data.json"), "path": None})
    page = report(run.path, output=output, data=str(data))
    text = output.read_text(encoding="utf-8")
    assert "<script" not in text and "<img src=x" not in text and "<b>data" not in text and "<i>gone" not in text
    assert nasty[0] in page.text and nasty[1] in page.text and "caf\\udce9 & co" in page.text
    assert f"images of {data}" in page.text and "<i>gone" in page.text


def test_a_run_whose_data_is_gone_keeps_its_curves(run, output, caplog):
    config = run.read("config.json")
    config["data"] = "no/such/folder"
    run.write("config.json", config)
    run.write("data.json", {**run.read("data.json"), "path": None})
    page = report(run.path, output=output)
    assert page.count("img") == 0 and page.count("svg") == 4 and "Confusion matrix" not in page.text
    assert "so none are shown: no/such/folder is not" in page.text and "does not exist" in page.text
    assert "so none are shown: no/such/folder is not" in caplog.text
    with pytest.raises(ValueError, match="no/such/folder"):
        report(run.path, output=output, data="no/such/folder")


def test_data_that_has_changed_is_noted(run, output):
    data = run.read("data.json")
    run.write("data.json", {**data, "train_images": 40})
    page = report(run.path, output=output)
    assert "The data has changed since the run started" in page.text and page.count("img") == 7


def test_a_run_without_a_network_yet(run, output, caplog):
    for name in ("best.pt", "last.pt", "summary.json"):
        (run.path / name).unlink()
    rows = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(rows[:2]) + rows[2][:20])
    page = report(run.path, output=output)
    assert "2 of 8 epochs so far." in page.text and page.count("svg") == 4 and page.count("img") == 0
    assert "best.pt does not exist" in page.text and "best.pt does not exist" in caplog.text
    assert "it was lost after 2 epochs." in page.text and "No epoch has finished" not in page.text
    for name in ("metrics.jsonl", "data.json", "environment.json"):
        (run.path / name).unlink()
    page = report(run.path, output=output)
    assert "0 of 8 epochs so far." in page.text and "No epoch has finished yet." in page.text and page.count("svg") == 0


def test_a_damaged_network_is_noted(run, output):
    run.best.write_bytes(run.best.read_bytes()[:1000])
    page = report(run.path, output=output)
    assert "Images and classes are not shown" in page.text and page.count("svg") == 4


def test_unreadable_images_are_skipped_and_counted(trained_run, output, tmp_path):
    data = shutil.copytree(trained_run.parent / "images" / "val", tmp_path / "data")
    (data / "cat" / "0.jpg").write_bytes(b"broken")
    page = report(trained_run, output=output, data=str(data))
    assert "1 of 12 images cannot be read and are skipped" in page.text and "predicts 11 of 11" in page.text


def test_several_runs_are_compared(trained_run, run, output):
    config = run.read("config.json")
    config["optim"]["lr"] = 0.5
    run.write("config.json", config)
    page = report(trained_run, run.path, output=output, mistakes=0)
    assert page.count("details", class_="run") == 2 and page.count("svg") == 4
    assert re.search(r"Differences.*--lr0\.050\.5", page.text.replace("\n", ""))
    assert "--seed" not in page.text.partition("Curves")[0], "options that are the same are not listed there"
    assert output.read_text().count("stroke: var(--c1)") >= 6, "a line for each curve of the second run"
    assert page.count("li", class_="wide3") == 0 and "These are" not in page.text


def test_the_ninth_run_has_another_style_than_the_first(run, output, tmp_path):
    run.best.unlink()
    runs = [shutil.copytree(run.path, tmp_path / f"run{number}") for number in range(9)]
    page = report(*runs, output=output)
    swatches = ["border-color:var(--c0);background:var(--c0)", "border-color:var(--c0);background:var(--paper)"]
    assert [page.count("span", class_="swatch", style=look) > 0 for look in swatches] == [True, True]
    assert "stroke: var(--paper); stroke-width: 1.5" in output.read_text(), "a line in the middle of its lines"


def test_the_monitored_metric_selects_the_best_epoch(trained_run, run, output):
    config = run.read("config.json")
    config["goal"] = "macro_f1"
    run.write("config.json", config)
    rows = [{**row, "val_macro_f1": 87.5 if row["epoch"] == 2 else 1.0} for row in run.rows()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report(run.path, output=output)
    assert "best macro F187.50 %at epoch2" in page.text and "best top-1" not in page.text
    assert page.count("div", role="img") == 5
    assert "Macro F1, %" in page.text

    page = report(trained_run, run.path, output=output)
    assert "top-1100.00 %" in page.text and "macro F187.50 %" in page.text


@pytest.mark.seconds
def test_pages_of_a_thousand_classes_stay_within_the_size_limit(run, output, tmp_path):
    """1,100 classes of noise, one image each, 2,000 epochs: all sections at their largest."""
    classes = tuple(f"a rather long name of class {number:04}" for number in range(1100))
    random = np.random.default_rng(0)
    for name in classes:
        (tmp_path / "data" / name).mkdir(parents=True)
        noise = Image.fromarray(random.integers(0, 255, (20, 20, 3), dtype=np.uint8))
        noise.resize((160, 160)).save(tmp_path / "data" / name / "0.bmp")
    torch.manual_seed(0)
    model = create_model("rexnet", width=0.1, num_classes=1100)
    preprocess = Preprocess(image_size_px=24, crop_ratio=1.0)
    checkpoint.save(run.best, checkpoint.pack(model, {"epoch": 1}, classes=classes, preprocess=preprocess))
    row = run.rows()[0]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps({**row, "epoch": n}) + "\n" for n in range(1, 2001)))
    page = report(run.path, output=output, data=str(tmp_path / "data"))
    assert "The 30 of 1,100 classes with the most mistakes." in page.text and "1,000 of 1,100 classes" in page.text
    assert page.count("li", class_="wide3") == 8 and page.count("li", class_="wide1") == 16
    assert output.stat().st_size < BOUND_BYTES


def test_a_kill_while_writing_leaves_the_old_page(trained_run, output, monkeypatch):
    output.write_text("the old page")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)
        report(trained_run, output=output)
    assert output.read_text() == "the old page"
    report(trained_run, output=output)
    assert sorted(path.name for path in output.parent.iterdir()) == ["page.html"]


def test_the_page_of_one_run_is_written_to_its_folder_and_removed_with_it(run, monkeypatch, tmp_path):
    assert write_report(ReportConfig(runs=(str(run.path),), device="cpu")) == run.path / "report.html"
    run.prepare(overwrite=True)
    assert not run.holds("report.html")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runs": ()}, "no run given"),
        ({"mistakes": -1}, "--mistakes is -1; allowed: 0 or more"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"output": "."}, ", a folder; name a file"),
        ({"output": "no/such/page.html"}, "there is no folder"),
        ({"device": "abacus"}, "allowed on this machine"),
    ],
)
def test_impossible_reports_are_refused_in_one_sentence(trained_run, options, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        write_report(ReportConfig(**{"runs": (str(trained_run),), "device": "cpu", **options}))
    assert "\n" not in str(refused.value)


@pytest.mark.seconds
def test_the_command(trained_run, tmp_path):
    command = [sys.executable, "-m", "rexnet", "report"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "run folder" in done.stderr
    page = tmp_path / "one.html"
    arguments = [str(trained_run), "--output", str(page), "--threads", "1", "--device", "cpu"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"report: {page}\n", "")
    Page(page).check_self_contained()


def test_a_detection_run_is_reported_by_its_metric(tmp_path, output):
    run = shutil.copytree(Path(__file__).parents[1] / "training" / "old_runs" / "detector", tmp_path / "detector")
    page = report(run, output=output)
    assert "best box AP" in page.text and "0.22 %" in page.text and "Top-1" not in page.text
    assert "box AP50" in output.read_text()


def test_the_predicted_objects_of_a_detection_run_are_shown(tmp_path, output):
    run = shutil.copytree(Path(__file__).parents[1] / "training" / "old_runs" / "detector", tmp_path / "detector")
    draw_shapes(str(tmp_path / "shapes"), images=20, seed=0, size_px=64)
    model = create_detector("ssdlite", backbone="rexnet_010", num_classes=4, min_size_px=64, max_size_px=64)
    classes = ("circle", "triangle", "square", "cross")
    checkpoint.save(run / "best.pt", pack(model, {"epoch": 2}, classes=classes, category_ids=(3, 7, 8, 21)))
    page = report(run, output=output, data=str(tmp_path / "shapes"))
    count = page.count("li", class_="wide2")
    assert "Predicted objects" in page.text and 2 <= count == page.count("img") and "Confusion matrix" not in page.text
    page = report(run, output=output)
    assert page.count("img") == 0 and "The images of the run are not available" in page.text
    with pytest.raises(ValueError, match="no/such"):
        report(run, output=output, data="no/such")


def test_a_folder_without_a_run_is_refused_in_one_sentence(trained_run, output, tmp_path):
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "config.json").write_text('{"library_name": "rexnet"}')
    shutil.copy(trained_run / "best.pt", tmp_path / "alone.pt")
    for path in (tmp_path / "card", tmp_path / "alone.pt"):
        with pytest.raises(ValueError, match="run folder") as refused:
            report(path, output=output)
        assert "\n" not in str(refused.value)
    assert "Report: run" in report(trained_run / "best.pt", output=output).text, "a checkpoint means its run"
