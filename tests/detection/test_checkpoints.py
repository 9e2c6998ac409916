import pytest
import torch

from rexnet.detection.checkpoints import load_detector
from rexnet.errors import WeightsError
from rexnet.training import checkpoint


def test_a_checkpoint_rebuilds_the_detector(trained):
    detector = load_detector(trained / "best.pt")
    content = checkpoint.read(trained / "best.pt")
    state = detector.model.state_dict()
    assert all(torch.equal(state[name], values) for name, values in content["state_dict"].items())
    assert not detector.model.training and detector.category_ids == tuple(content["category_ids"])


def test_classifiers_and_detectors_are_told_apart(trained, trained_run):
    with pytest.raises(WeightsError, match=r"holds a classifier.*`rexnet predict`"):
        load_detector(trained_run / "best.pt")
    with pytest.raises(WeightsError, match="holds a detector; `rexnet detect` takes it"):
        checkpoint.load(trained / "best.pt")
