import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rexnet.deploy.config import ValidateConfig
from rexnet.deploy.validate import validate
from rexnet.detection.checkpoints import pack
from rexnet.detection.detectors import create_detector
from rexnet.errors import WeightsError
from rexnet.training import checkpoint
from rexnet.training.classify import train
from rexnet.training.run_folder import RunFolder
from tests.networks import need_engine


@pytest.mark.seconds
def test_validation_matches_classes_by_name(tiny_config, image_folder, tmp_path):
    train(tiny_config)
    best = str(Path(tiny_config.run.output) / "best.pt")
    some = tmp_path / "only foxes and cats"
    some.mkdir()
    (image_folder / "val" / "fox").rename(some / "fox")
    (image_folder / "val" / "cat").rename(some / "cat")
    whole = RunFolder(tiny_config.run.output).read("summary.json")["best"]
    found = validate(ValidateConfig(checkpoint=best, data=str(some), device="cpu", output=str(tmp_path / "found.json")))
    assert found["missing_classes"] == ["dog"] and found["by_class"]["dog"]["recall"] is None
    assert found == json.loads((tmp_path / "found.json").read_text())
    rest = validate(ValidateConfig(checkpoint=best, data=str(image_folder / "val"), device="cpu"))
    right = sum(row["correct"] for part in (found, rest) for row in part["by_class"].values())
    assert right / 12 == pytest.approx(whole["val_top1"] / 100, abs=1e-5)
    (some / "wolf").mkdir()
    (some / "fox" / "0.jpg").rename(some / "wolf" / "0.jpg")
    with pytest.raises(ValueError, match="wolf"):
        validate(ValidateConfig(checkpoint=best, data=str(some), device="cpu"))


def test_the_split_of_training_is_repeated(tiny_config, changed, image_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    plain = image_folder / "train"
    config = replace(changed(tiny_config, "schedule", epochs=1, warmup_epochs=0.0), data=str(plain))
    best = train(config)["best"]
    run = RunFolder(config.run.output)
    moved = plain.rename(tmp_path / "moved")
    kept = tmp_path / "kept.safetensors"
    checkpoint.save(kept, checkpoint.read(run.best))
    for source in (run.best, kept):
        caplog.clear()
        found = validate(ValidateConfig(checkpoint=str(source), data=str(moved), device="cpu", batch_size=5))
        assert {name: found[name] for name in ("images", "top1", "macro_recall", "macro_f1")} == {
            name: best[f"val_{name}"] for name in ("images", "top1", "macro_recall", "macro_f1")
        }
        assert "6 of 36 images are its validation split (20 % of each class for validation, seed 3)" in caplog.text
    rest = validate(ValidateConfig(checkpoint=str(run.best), data=str(moved), device="cpu", split="train"))
    assert rest["images"] == 30 and "30 of 36 images are its training split" in caplog.text

    older = checkpoint.read(run.best)
    del older["split"]
    checkpoint.save(run.best, older)
    found = validate(ValidateConfig(checkpoint=str(run.best), data=str(moved), device="cpu"))
    assert found["images"] == 36 and "all of it is evaluated" in caplog.text


def test_an_invalid_split_is_reported_as_damage(tiny_model, tiny_preprocess, tmp_path):
    content = checkpoint.pack(tiny_model(), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    checkpoint.save(tmp_path / "m.pt", {**content, "split": {"val_fraction": 2}})
    with pytest.raises(ValueError, match="is inconsistent"):
        checkpoint.load(tmp_path / "m.pt")


def test_the_command_for_a_detector_takes_its_data(image_folder, tmp_path):
    model = create_detector("ssdlite", backbone="rexnet_010", num_classes=2, min_size_px=96, max_size_px=96)
    checkpoint.save(tmp_path / "it.pt", pack(model, {}, classes=("a", "b"), category_ids=(1, 2)))
    boxes = tmp_path / "boxes"
    (boxes / "annotations").mkdir(parents=True)
    (boxes / "annotations" / "instances_val.json").write_text("{}")
    for data, takes in ((image_folder, "COCO_DIR"), (boxes, str(boxes))):
        with pytest.raises(WeightsError, match=rf"`rexnet detect validate \S*it\.pt {takes}`"):
            validate(ValidateConfig(checkpoint=str(tmp_path / "it.pt"), data=str(data), device="cpu"))


@pytest.mark.seconds
@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_every_engine_counts_the_same(backend, tiny_config, image_folder):
    need_engine(backend)
    train(tiny_config)
    config = ValidateConfig(
        checkpoint=str(RunFolder(tiny_config.run.output).best), data=str(image_folder), threads=2, device="cpu"
    )
    expected, found = validate(config), validate(replace(config, backend=backend, device="auto"))
    assert found["by_class"] == expected["by_class"] and found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_engine_and_mixed_precision_exclude_each_other():
    for options in ({"precision": "bf16"}, {"backend": "native", "amp": "bf16"}):
        with pytest.raises(ValueError, match=r"--(precision|amp) is bf16"):
            ValidateConfig(checkpoint="a.pt", data="b", **options)
