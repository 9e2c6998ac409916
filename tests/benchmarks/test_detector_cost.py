import pytest
import torch

import detector_cost
from rexnet.detection.detectors import create_detector

# Parameters in millions and MACs in percent that a row is off: what the notes of the rows speak of.
DEVIATIONS = {
    ("mask_rcnn", "timm/resnet50"): (0.201, -0.08),
}
# MACs in percent that the others may be off; a row without a note is of the paper's own networks or EfficientNets.
CLOSE = {"ssdlite": 1.0, "faster_rcnn": 0.25, "mask_rcnn": 0.25}


@pytest.mark.parametrize("row", detector_cost.ROWS, ids=lambda row: f"{row.kind}-{row.backbone}")
def test_sizes_are_the_published_ones(row):
    cost = detector_cost.measure(row)
    millions = cost.parameters / 1e6 - row.parameters_m
    percent = 100 * (cost.macs / 1e9 / row.macs_g - 1)
    if known := DEVIATIONS.get((row.kind, row.backbone)):
        assert (millions, percent) == pytest.approx(known, abs=0.01) and row.note
        assert abs(known[0]) > 0.1 or abs(known[1]) > 2
    else:
        assert abs(millions) < 0.1 and abs(percent) < (2.0 if row.form else CLOSE[row.kind])
        assert bool(row.note) == bool(row.form)


def test_the_note_on_masks_of_resnet50_is_right():
    with torch.device("meta"):
        model = create_detector("mask_rcnn", backbone="timm/resnet50", num_classes=80)
    network = model.get_submodule("backbone.body.network")
    for part in (network.conv1, network.bn1, network.layer1):
        part.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained / 1e6 == pytest.approx(44.2, abs=0.03)


def test_the_stated_image_size_does_not_fit():
    with torch.device("meta"):
        model = create_detector("faster_rcnn", backbone="rexnet_100", num_classes=80)
    assert detector_cost.measure_detector_cost(model, height_px=800, width_px=1200).macs / 1e9 < 0.95 * 124.1
