"""Every command that takes a MODEL, with every kind of it: works, or refuses in one sentence."""

import re
import shlex

import pytest

from rexnet import cli
from rexnet.data.boxes.shapes import draw_shapes
from rexnet.serve.metrics import Metrics
from rexnet.serve.model_registry import open_registry
from tests.drawings import draw_folder

KINDS = (
    "name",
    "published",
    "checkpoint",
    "run",
    "detector",
    "detection_run",
    "exported",
    "exported_detector",
    "card",
    "detector_card",
    "report",
    "nonsense",
    "missing",
)
CLASSIFIER, DETECTOR = {"checkpoint", "run", "card"}, {"detector", "detection_run", "detector_card"}
# MODEL, and of the other words: IMAGE, OUT (without ending), IMAGES (a folder of classes), BOXES (of detection).
COMMANDS = {
    "predict MODEL IMAGE": CLASSIFIER | {"exported"},
    "validate MODEL IMAGES": CLASSIFIER,
    "export MODEL --output OUT.onnx": CLASSIFIER | DETECTOR | {"name"},
    "quantize MODEL --data IMAGES --output OUT.onnx --rounds 1": CLASSIFIER,
    "bench MODEL --rounds 1 --image-size 24 --no-memory": CLASSIFIER | {"name", "exported"},
    "serve MODEL": CLASSIFIER | DETECTOR | {"exported", "exported_detector"},
    "card MODEL --output OUT": {"checkpoint", "run", "detector", "detection_run"},
    "report MODEL --output OUT.html": {"checkpoint", "run", "detector", "detection_run"},
    "train IMAGES --weights MODEL --epochs 1 --output OUT": CLASSIFIER,
    "train IMAGES --model MODEL --epochs 1 --image-size 16 --output OUT": CLASSIFIER | {"name"},
    "detect predict MODEL IMAGE --out OUT": DETECTOR | {"exported_detector"},
    "detect validate MODEL BOXES": DETECTOR,
    "detect train BOXES --detector ssdlite --model rexnet_020 --min-size 64 --weights MODEL --epochs 1 --output OUT": (
        CLASSIFIER | DETECTOR
    ),
    "study advise MODEL": CLASSIFIER | {"name"},
    "study rewrite MODEL --output OUT": set(),
    "study spectra MODEL --data IMAGES --output OUT": CLASSIFIER | {"name"},
    "search export MODEL --output OUT": set(),
    "search report MODEL --output OUT": set(),
}


@pytest.fixture(scope="session")
def models(trained_run, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    images = draw_folder(root / "images", train=8, val=20)
    draw_shapes(root / "boxes", images=8, seed=0, size_px=64)
    detection = ["--detector", "ssdlite", "--model", "rexnet_020", "--min-size", "64"]
    run = str(root / "detection_run")
    found = {
        "images": str(images),
        "image": str(next(images.rglob("*.png"))),
        "boxes": str(root / "boxes"),
        "name": "rexnet_020",
        "published": "rexnet_100.nav_in1k",
        "checkpoint": str(trained_run / "best.pt"),
        "run": str(trained_run),
        "detector": f"{run}/best.pt",
        "detection_run": run,
        "exported": str(root / "c.onnx"),
        "exported_detector": str(root / "d.onnx"),
        "card": str(root / "card"),
        "detector_card": str(root / "detector_card"),
        "report": str(root / "report.html"),
        "nonsense": "rexnett_100",
        "missing": str(root / "none" / "best.pt"),
    }
    cli.main(["detect", "train", found["boxes"], *detection, "--epochs", "1", "--device", "cpu", "--output", run])
    cli.main(["export", found["checkpoint"], "--output", found["exported"]])
    cli.main(["export", found["detector"], "--output", found["exported_detector"]])
    cli.main(["card", found["run"], "--output", found["card"]])
    cli.main(["card", found["detector"], "--output", found["detector_card"]])
    cli.main(["report", found["run"], "--output", found["report"]])
    return found


@pytest.fixture
def no_server(monkeypatch):
    """`serve` opens its models and ends."""
    monkeypatch.setattr("rexnet.serve.run.serve", lambda config, api_key: open_registry(config, Metrics()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_or_refuses_every_kind_of_model(command, kind, models, no_server, tmp_path, capsys):
    places = {"MODEL": models[kind], "IMAGE": models["image"], "IMAGES": models["images"], "BOXES": models["boxes"]}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command.split()]
    works = kind in COMMANDS[command]
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr().err
    refusals = re.findall(r"^rexnet: .*", said, flags=re.MULTILINE)
    assert len(refusals) == (not works), f"{shlex.join(words)} ends with {code}: {said}"
    done = {0, 1} if command.startswith("study advise") else {0}  # 1: there is advice
    assert code in (done if works else {1, 2}), said
    assert works or said.rstrip().endswith(refusals[0]), said
