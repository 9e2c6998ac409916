import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from PIL import Image

import rexnet
from rexnet.card.config import CardConfig
from rexnet.card.trained_file import read_trained
from rexnet.card.write import FILES, card_text, write_card
from rexnet.cli import main
from rexnet.deploy.bench import find_subject
from rexnet.deploy.export import EXPORTABLE
from rexnet.detection import ObjectPredictor, load_detector
from rexnet.detection.config import DetectorOptions
from rexnet.detection.train import build_model
from rexnet.errors import OptionError
from rexnet.models.weights import read_weights
from rexnet.references import resolve
from rexnet.training import checkpoint
from tests.card.conftest import CLASSES


def write(run: Path, output: Path, **options) -> str:
    """The text of the card."""
    write_card(CardConfig(run=str(run), output=str(output), **options))
    return (output / "README.md").read_text(encoding="utf-8")


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "given-away"


def test_a_trained_run_is_restored_with_equal_logits(trained_run, output):
    write(trained_run, output)
    original, read = rexnet.load(trained_run / "best.pt"), rexnet.load(output)
    batch = torch.randn(2, 3, 24, 24)
    assert torch.equal(read(batch), original(batch))
    assert (read.classes, read.preprocess, read.config, read.split) == (
        (original.classes, original.preprocess, original.config, original.split)
    )
    assert sorted(file.name for file in output.iterdir()) == sorted(FILES)
    assert json.loads((output / "labels.json").read_text()) == list(read.classes)
    assert json.loads((output / "preprocessing.json").read_text()) == read.preprocess.to_dict()
    assert read_weights(str(output)).classes == read.classes, "as --weights takes it"
    image = Image.fromarray(np.zeros((30, 40, 3), np.uint8))
    options = {"backend": "torch", "device": "cpu", "threads": 1}
    assert rexnet.Predictor(output, **options)(image) == rexnet.Predictor(original, **options)(image)


def test_the_hub_reads_the_card(run, output):
    text = write(run, output, license="MIT")
    card = ModelCard.load(output / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("rexnet", "image-classification", "mit")
    assert data.datasets is None and data.base_model is None, "a folder of photos is not a dataset of the hub"
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {"top-1 accuracy": ("accuracy", 0.9), "macro recall": ("recall", 0.885)}, "no NaN, no top-5 of 3"
    assert {(result.dataset_type, result.dataset_name) for result in data.eval_results} == {("imagefolder", "photos")}
    assert metadata_load(output / "README.md")["model-index"][0]["name"] == "given-away"
    assert "alice" not in text, "folders of the machine are nobody's business"
    assert "rexnet train photos --output=1 --epochs 3" in text
    assert "82.6 to 94.5" in text, "the interval of 90 right of 100"
    assert "The interval accounts only for" in text
    assert "drawn at random" in text and "2 of 3 epochs" in text and "100 images are few" in text


def test_class_names_cannot_become_markdown(run, output):
    text = write(run, output)
    shown = re.search(r"## Classes\n\n(.*?)\n\n", text, flags=re.DOTALL)
    assert shown and "\n" not in shown[1] and "<b>" not in text and "狐" in text
    assert json.loads((output / "labels.json").read_text(encoding="utf-8")) == list(CLASSES)


def test_export_and_bench_take_the_folder_unless_it_has_a_networks_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("animals", "rexnet_100"):
        write(run, tmp_path / name)
    assert resolve("animals", allowed=EXPORTABLE).kind == resolve("./rexnet_100", allowed=EXPORTABLE).kind == "folder"
    assert find_subject("animals").image_size_px == find_subject("./rexnet_100").image_size_px == 16
    assert resolve("rexnet_100", allowed=EXPORTABLE).kind == "network"
    assert find_subject("rexnet_100").image_size_px == 224


def test_without_a_licence_none_is_guessed(run, output):
    text = write(run, output)
    assert ModelCard(text).data.license is None and "None is stated" in text


def test_the_initial_weights_are_named(run, output):
    config = json.loads((run / "config.json").read_text())
    config["network"]["weights"] = "rexnet_100.nav_in1k"
    (run / "config.json").write_text(json.dumps({**config, "data": "hfds/owner/animals"}))
    data = ModelCard(text := write(run, output)).data
    assert (data.base_model, data.datasets) == ("timm/rexnet_100.nav_in1k", ["owner/animals"])
    assert "MIT, according to their publisher" in text


def test_the_code_in_the_card_runs(run, output, monkeypatch, capsys):
    text = write(run, output)
    choice = SimpleNamespace(backend="torch", precision="fp32", chunk=1)
    monkeypatch.setattr("rexnet.deploy.class_predictor.choose", lambda *_, **__: choice)
    monkeypatch.chdir(output)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("image.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code, {})
    assert "ScoredClass" in capsys.readouterr().out


def test_a_detector_is_restored_too(detector_run, output, monkeypatch):
    text = write(detector_run, output, license="cc-by-4.0")
    read, original = load_detector(output), load_detector(detector_run / "best.pt")
    assert (read.classes, read.category_ids) == (original.classes, original.category_ids)
    image = torch.rand(3, 80, 90)
    mine, theirs = read.model([image])[0], original.model([image])[0]
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    options = DetectorOptions(detector="ssdlite", model="rexnet_010", weights=str(output), min_size=96)
    warm = build_model(options, read.classes).state_dict()
    assert all(torch.equal(warm[key], value) for key, value in original.model.state_dict().items())
    assert rexnet.load(output).category_ids == original.category_ids
    data = ModelCard(text).data
    assert data.pipeline_tag == "object-detection" and "ssdlite" in data.tags
    assert [(r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("AP, IoU 0.50 to 0.95, boxes", 0.333),
        ("AP, IoU 0.50, boxes", 0.5),
    ]
    assert {result.dataset_type for result in data.eval_results} == {"unknown"}, "boxes lie in no imagefolder"
    assert "| AP, IoU 0.50 to 0.95, boxes | 33.30 |\n| AP, IoU 0.50, boxes | 50.00 |\n\n## Training" in text
    assert "interval" not in text
    monkeypatch.chdir(output)
    Image.fromarray(np.zeros((80, 90, 3), np.uint8)).save("image.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code, {})
    assert ObjectPredictor(output, threads=1, device="cpu").classes == ("a", "b", "c")


def test_a_card_names_the_masks_the_single_class_and_the_skipped_image(detector_run):
    (detector_run / "summary.json").write_text('{"skipped": ["a.jpg"]}')
    trained = read_trained(str(detector_run))
    content = {**trained.content, "detector": {**trained.content["detector"], "kind": "mask_rcnn"}, "classes": ["a|b"]}
    text = card_text(replace(trained, content=content), name="x*", address=".", licence=None)
    assert text.startswith("# x\\*\n\nDetects objects of 1 class in an image, with boxes and masks. mask_rcnn on")
    assert "\n- 1 image could not be read and was skipped.\n" in text and "had not finished" not in text
    assert "\n## Classes\n\na\\|b. `labels.json`" in text and "\n\n\n" not in text


@pytest.mark.parametrize("name", ["model.pt", "mine.safetensors"])
def test_a_checkpoint_without_its_run_makes_no_claims(content, tmp_path, output, name):
    checkpoint.save(tmp_path / name, content)
    text = write(tmp_path / name, output)
    assert "Nothing is known about its training" in text and "is not known" in text
    assert ModelCard(text).data.eval_results is None, "nobody knows on which images"
    assert torch.equal(rexnet.load(output)(images()), rexnet.load(tmp_path / name)(images()))


def test_a_file_with_another_name_does_not_belong_to_the_run_in_its_folder(run, content, output):
    checkpoint.save(run / "other.safetensors", content)
    assert "Nothing is known about its training" in write(run / "other.safetensors", output)


def test_last_pt_is_used_without_best_pt(run, output, caplog):
    (run / "best.pt").rename(run / "last.pt")
    assert "by which this epoch was selected" not in write(run, output)
    assert "has no best.pt" in caplog.text


def test_a_stopped_first_epoch_has_no_metrics(run, content, output):
    (run / "best.pt").unlink()
    checkpoint.save(run / "last.pt", {**content, "metrics": {"epoch": 1, "step": 5}, "training": {"x": 1}})
    text = write(run, output)
    assert "has no metrics" in text and ModelCard(text).data.eval_results is None


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: folder.write_text("x"), ", a file; allowed"),
        (lambda folder: (folder.mkdir(), (folder / "thesis.doc").touch()), "which contains thesis.doc"),
        (lambda folder: (folder.mkdir(), (folder / "README.md").touch()), "already contains files; name a new"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_touched(run, output, prepare, words, overwrite):
    prepare(output)
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(ValueError, match=words):
        write(run, output, overwrite=overwrite)
    assert sorted(output.parent.rglob("*")) == before


def test_only_overwrite_replaces_a_model_folder(run, output):
    output.mkdir()
    write(run, output)
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        write(run, output, license="mit")
    (output / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"which contains notes\.txt"):
        write(run, output, license="mit", overwrite=True)
    (output / "notes.txt").unlink()
    assert ModelCard(write(run, output, license="mit", overwrite=True)).data.license == "mit"
    with pytest.raises(ValueError, match=r"is the folder of model\.safetensors"):
        write(output / "model.safetensors", output, overwrite=True)


def test_models_without_a_card_are_refused_in_one_sentence(run, content, output, tmp_path):
    (tmp_path / "empty").mkdir()
    young = shutil.copytree(run, tmp_path / "young")
    (young / "best.pt").unlink()
    torch.save({**content, "classes": ["one"]}, tmp_path / "wrong.pt")
    torch.save({**content, "task": "poetry"}, tmp_path / "poetry.pt")
    refused = {
        "nothing": "there is no file",
        "empty": "neither a run folder nor",
        "young": "has no checkpoint yet",
        "wrong.pt": "is inconsistent",
        "poetry.pt": "allowed: classifiers and detectors",
    }
    for name, words in refused.items():
        with pytest.raises(ValueError, match=words) as error:
            write(tmp_path / name, output)
        assert "\n" not in str(error.value) and not output.exists()
    write(run, output)
    with pytest.raises(ValueError, match="is a folder of `rexnet card`"):
        write(output, tmp_path / "again")


@pytest.mark.parametrize(
    "options", [{"push": "me"}, {"push": "me/../x"}, {"license": "do what you want"}, {"license": ""}, {"public": True}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(OptionError, match=f"--{next(iter(options))} is .*; allowed: "):
        CardConfig(run="run", output="out", **options)


class FakeHub:
    """In the place of HfApi: notes what it is asked for."""

    asked: list
    fails = False

    def __init__(self, **_):
        pass

    def create_repo(self, repository, **options):
        self.asked.append((repository, options))
        return f"https://hub.example/{repository}"

    def upload_folder(self, *, repo_id, folder_path, **_):
        if self.fails:
            raise ConnectionError("no\nroute")
        self.asked.append((repo_id, sorted(file.name for file in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch):
    FakeHub.asked, FakeHub.fails = [], False
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    return FakeHub


def test_nothing_is_uploaded_without_push(run, output, hub, capsys):
    main(["card", str(run), "--output", str(output)])
    assert hub.asked == []
    printed = capsys.readouterr().out
    assert f"rexnet predict {output}" in printed and "no licence is stated" in printed


@pytest.mark.parametrize("public", [False, True])
def test_push_sends_the_folder_and_prints_where(run, output, hub, capsys, public):
    main(["card", str(run), "--output", str(output), "--push", "me/animals", *(["--public"] if public else [])])
    assert hub.asked == [("me/animals", {"private": not public, "exist_ok": True}), ("me/animals", sorted(FILES))]
    assert "https://hub.example/me/animals" in capsys.readouterr().out
    text = (output / "README.md").read_text()
    assert 'rexnet.Predictor("hf://me/animals")' in text and "# animals\n" in text


def test_a_rejected_upload_is_reported_in_one_sentence_and_keeps_the_folder(run, output, hub):
    hub.fails = True
    with pytest.raises(ValueError, match=r"could not be uploaded to the hub \(ConnectionError") as error:
        write(run, output, push="me/animals")
    assert "\n" not in str(error.value) and f"hf upload me/animals {str(output)!r}" in str(error.value)
    assert rexnet.load(output).classes == CLASSES
