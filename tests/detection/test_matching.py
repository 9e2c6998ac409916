import subprocess
import sys

import pytest
import torch
from torchvision.ops import box_iou

from rexnet.detection import matching


@pytest.mark.parametrize(("objects", "anchors"), [(0, 5), (1, 1), (7, 100), (300, 3), (3, 0)])
def test_the_numbers_are_torchvisions(monkeypatch, objects, anchors):
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", 64)
    corners = torch.rand(objects + anchors, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    boxes, others = corners.flatten(1).split([objects, anchors])
    assert torch.equal(matching.overlap_in_parts(boxes, others), box_iou(boxes, others))


def test_the_first_stage_matches_so(tiny_detector):
    assert tiny_detector("faster_rcnn").rpn.box_similarity is matching.overlap_in_parts


@pytest.mark.slow
def test_a_thousand_objects_need_little_more_than_the_numbers():
    """150 MB of numbers; torchvision takes more than a GB."""
    program = (
        "import resource, sys, torch; from rexnet.detection.matching import overlap_in_parts; "
        "boxes, anchors = torch.rand(1000, 4), torch.rand(40_000, 4); overlap_in_parts(boxes[:9], anchors); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; overlap_in_parts(boxes, anchors); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert 100e6 < int(done.stdout) * unit < 500e6
