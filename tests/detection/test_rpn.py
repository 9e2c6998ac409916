import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from rexnet.detection import create_detector, rpn
from rexnet.detection.rpn import DENSEST, SparselyUsedConv2d, overlap_in_parts


@pytest.mark.parametrize(("objects", "anchors"), [(0, 5), (1, 1), (7, 100), (300, 3), (3, 0)])
def test_the_numbers_are_torchvisions(monkeypatch, objects, anchors):
    monkeypatch.setattr(rpn, "_PAIRS_AT_ONCE", 64)
    corners = torch.rand(objects + anchors, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    boxes, others = corners.flatten(1).split([objects, anchors])
    assert torch.equal(overlap_in_parts(boxes, others), box_iou(boxes, others))


def test_the_rpn_matches_with_it(tiny_detector):
    assert tiny_detector("faster_rcnn").rpn.box_similarity is overlap_in_parts


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_objects_need_little_memory_beyond_the_result():
    """160 MB of numbers with 500 MB to spare, which is too little for torchvision's way to them."""
    program = """
import resource, torch
from pathlib import Path
from torchvision.ops import box_iou
from rexnet.detection.rpn import overlap_in_parts

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


def proposals_of(stage, logits):
    """Boxes that stay of 40 that do not overlap, all of one level."""
    left = 10.0 * torch.arange(40)
    boxes = torch.stack([left, torch.zeros(40), left + 8, torch.full((40,), 8.0)], dim=1)
    ((kept,), _) = stage.filter_proposals(boxes[None], logits, [(10, 400)], [20, 20])
    return (kept[:, 0] / 10).long().tolist()


def test_proposals_with_a_saturated_sigmoid_are_still_ranked(tiny_detector):
    stage = tiny_detector("faster_rcnn", proposals=8).eval().rpn
    logits = torch.linspace(20.0, 40.0, 40)
    assert (logits.sigmoid() == 1).all()
    assert proposals_of(stage, logits) == list(range(39, 31, -1))


def test_a_copy_ranks_by_its_own_settings(tiny_detector):
    detector = tiny_detector("faster_rcnn", proposals=8).eval()
    copy = deepcopy(detector)
    detector.rpn._post_nms_top_n["testing"] = 3
    assert [len(proposals_of(one.rpn, torch.linspace(-3.0, 3.0, 40))) for one in (detector, copy)] == [3, 8]


@pytest.mark.parametrize("used", [0, 1, 40, int(DENSEST * 520), int(DENSEST * 520) + 1, 520])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_dense_convolution(used, kernel_size, memory_format):
    torch.manual_seed(used)
    padding = kernel_size // 2
    ours = SparselyUsedConv2d(5, 7, kernel_size, padding=padding).double().to(memory_format=memory_format)
    dense = nn.Conv2d(5, 7, kernel_size, padding=padding).double()
    dense.load_state_dict(ours.state_dict())
    chosen = torch.zeros(520, dtype=torch.double)
    chosen[torch.randperm(520)[:used]] = 1
    image = torch.randn(2, 5, 20, 13, dtype=torch.double).contiguous(memory_format=memory_format)
    found = []
    for convolution in (ours, dense):
        x = image.clone().requires_grad_()
        out = convolution(x)
        (out.relu_().square() * chosen.view(2, 1, 20, 13)).sum().backward()
        found.append([out, x.grad, *(parameter.grad for parameter in convolution.parameters())])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_gradient_that_is_not_finite_is_not_lost():
    convolution = SparselyUsedConv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    gradient = torch.zeros(1, 3, 8, 8)
    gradient[0, 1, 4, 4] = torch.nan
    convolution(x).backward(gradient)
    assert x.grad is not None and convolution.weight.grad is not None
    assert x.grad[:, :, 3:6, 3:6].isnan().all() and convolution.weight.grad[1].isnan().all()


def test_under_autocast_the_gradients_keep_the_type_of_the_weights():
    convolution = SparselyUsedConv2d(8, 8, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = convolution(torch.randn(1, 8, 16, 16))
    assert out.dtype is torch.bfloat16
    out[..., 3, 3].float().sum().backward()
    assert convolution.weight.grad is not None and convolution.weight.grad.dtype is torch.float32
    assert convolution.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "ssdlite"])
def test_the_rpn_of_the_pyramid_detectors_uses_it(kind):
    detector = create_detector(kind, backbone="rexnet_030", num_classes=2)
    found = [name for name, module in detector.named_modules() if isinstance(module, SparselyUsedConv2d)]
    assert found == ([] if kind == "ssdlite" else ["rpn.head.conv.0.0"])
