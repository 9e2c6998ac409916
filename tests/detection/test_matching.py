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
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_objects_need_little_more_than_the_numbers():
    """160 MB of numbers with 500 MB to spare, which is too little for torchvision's way to them."""
    program = """
import resource, torch
from pathlib import Path
from torchvision.ops import box_iou
from rexnet.detection.matching import overlap_in_parts

boxes, anchors = torch.rand(1000, 4), torch.rand(40_000, 4)
overlap_in_parts(boxes[:9], anchors)
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 500_000_000, resource.RLIM_INFINITY))
assert overlap_in_parts(boxes, anchors).shape == (1000, 40_000)
try:
    box_iou(boxes, anchors)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "can't allocate memory" in done.stdout
