from dataclasses import replace

import pytest
import torch

from rexnet.detection.checkpoints import load_detector, load_detector_weights, pack
from rexnet.detection.config import DetectorOptions
from rexnet.detection.train import build_model
from rexnet.errors import WeightsError
from rexnet.training import checkpoint


def test_a_checkpoint_rebuilds_the_detector(trained):
    detector = load_detector(trained / "best.pt")
    content = checkpoint.read(trained / "best.pt")
    state = detector.model.state_dict()
    assert all(torch.equal(state[name], values) for name, values in content["state_dict"].items())
    assert not detector.model.training and detector.category_ids == tuple(content["category_ids"])


@pytest.mark.parametrize(
    ("stored", "threshold"), [({}, 0.5), ({"score_threshold": 0.3}, 0.3), ({"score_threshold": 1}, 1)]
)
def test_the_score_threshold_is_stored_and_a_half_in_an_older_file(trained, tmp_path, stored, threshold):
    content = checkpoint.read(trained / "best.pt")
    assert content.pop("score_threshold") == 0.5
    checkpoint.save(tmp_path / "a.pt", {**content, **stored})
    assert load_detector(tmp_path / "a.pt").score_threshold == threshold
    for wrong in (1.5, float("nan"), "much", None):
        checkpoint.save(tmp_path / "b.pt", {**content, "score_threshold": wrong})
        with pytest.raises(WeightsError, match="is inconsistent"):
            load_detector(tmp_path / "b.pt")


def test_classifiers_and_detectors_are_told_apart(trained, trained_run):
    with pytest.raises(WeightsError, match=r"holds a classifier.*`rexnet predict`"):
        load_detector(trained_run / "best.pt")
    with pytest.raises(WeightsError, match="holds a detector; use `rexnet detect`"):
        checkpoint.load(trained / "best.pt")


def test_starts_from_a_detector(trained, caplog):
    caplog.set_level("INFO")
    options = DetectorOptions(
        detector="mask_rcnn",
        model="rexnet_010",
        min_size=64,
        max_size=64,
        proposals=16,
        weights=str(trained / "best.pt"),
    )
    theirs = checkpoint.read(trained / "best.pt")["state_dict"]
    classes = load_detector(trained / "best.pt").classes
    same = build_model(options, classes).state_dict()
    assert all(torch.equal(same[name], values) for name, values in theirs.items())
    other = build_model(options, ("one", "two", "three", "four")).state_dict()
    changed = {name for name, values in theirs.items() if not torch.equal(other[name], values)}
    assert {name.rpartition(".")[0] for name in changed} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert f"{len(theirs) - len(changed)} of {len(theirs)} tensors of the detector loaded" in caplog.text
    with pytest.raises(WeightsError, match="kind mask_rcnn, but faster_rcnn is to be trained"):
        build_model(replace(options, detector="faster_rcnn"), classes)


def test_class_names_of_a_file_and_the_data_are_matched_in_unicode_normal_form(tiny_detector, tmp_path):
    source, model = tiny_detector("ssdlite"), tiny_detector("ssdlite")
    torch.nn.init.ones_(next(model.head.parameters()))
    names = [f"{number}e\u0301" for number in range(source.config.num_classes)]
    content = pack(source, {}, classes=names, category_ids=range(1, len(names) + 1))
    checkpoint.save(tmp_path / "a.pt", content)
    load_detector_weights(
        model, str(tmp_path / "a.pt"), classes=tuple(name.replace("e\u0301", "\u00e9") for name in names)
    )
    assert all(torch.equal(model.state_dict()[name], values) for name, values in source.state_dict().items())
