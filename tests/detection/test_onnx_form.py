import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from rexnet.detection.onnx_form import paste_masks


def test_masks_are_torchvisions_for_boxes_of_any_size_and_place():
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=random) * torch.tensor([33.0, 40.0])
    sides = torch.rand(60, 2, generator=random) ** 3 * 30
    narrow = torch.tensor([[0.02, 0.0, 0.3, 20.8], [0.0, 0.0, 0.02, 0.02], [0.0, 0.0, 33.0, 40.0], [32.9, 1, 33, 39]])
    boxes = torch.cat([torch.cat([corners, (corners + sides).minimum(torch.tensor([33.0, 40.0]))], dim=1), narrow])
    masks = torch.rand(len(boxes), 1, 28, 28, generator=random)
    torch.testing.assert_close(paste_masks(masks, boxes, (40, 33)), paste_masks_in_image(masks, boxes, (40, 33)))
