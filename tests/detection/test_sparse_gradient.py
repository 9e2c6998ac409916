"""The gathered gradient of a convolution is nn.Conv2d's, however few or many positions have one."""

import pytest
import torch
from torch import nn

from rexnet.detection import create_detector
from rexnet.detection.sparse_gradient import DENSEST, SparselyUsedConv2d


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
def test_the_first_stage_of_the_pyramids_uses_it(kind):
    detector = create_detector(kind, backbone="rexnet_030", num_classes=2)
    found = [name for name, module in detector.named_modules() if isinstance(module, SparselyUsedConv2d)]
    assert found == ([] if kind == "ssdlite" else ["rpn.head.conv.0.0"])
