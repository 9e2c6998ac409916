"""Form of a detector whose graph both ONNX Runtime and OpenVINO run correctly."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import operators

from rexnet.detection.roi_heads import FastRoIAlign
from rexnet.training.freezing import replace_module

_SLIVER_PX = 0.02
"""Side of the extra proposal in pixels, smaller than any detection's."""
_SURE = 50.0


def resize_by_whole_numbers(model: nn.Module) -> nn.Module:
    """Return a copy, on the CPU and in eval mode, that resizes images by integer arithmetic.

    torchvision multiplies floats: in a float32 graph, one image in ten gets a side one pixel shorter than in PyTorch,
    and each engine rounds interpolation positions differently. Integer arithmetic is the same everywhere. More than
    nine in ten images get torchvision's size, the others one pixel more; pixel values differ by rounding. SSDLite's
    fixed square needs no replacement.
    """
    model = deepcopy(model).cpu().float().eval()
    transform: Any = model.get_submodule("transform")
    if transform.fixed_size is None:
        vars(transform)["resize"] = _Resize(transform.min_size[-1], transform.max_size)
    return model


class _Resize:
    """Replace GeneralizedRCNNTransform.resize for images without targets."""

    def __init__(self, short_px: int, long_px: int):
        self.short_px, self.long_px = short_px, long_px

    def __call__(self, image: Tensor, target: None = None) -> tuple[Tensor, None]:
        shape = operators.shape_as_tensor(image)[-2:]
        short, long = shape.min(), shape.max()
        by_short = self.short_px * long <= self.long_px * short
        numerator = torch.where(by_short, self.short_px, self.long_px)
        sizes = torch.div(shape * numerator, torch.where(by_short, short, long), rounding_mode="floor")
        for axis, (old, new) in enumerate(zip(shape.unbind(), sizes.unbind(), strict=True), start=1):
            image = _interpolated(image, axis, old, new)
        return image, target


def _interpolated(image: Tensor, axis: int, old: Tensor, new: Tensor) -> Tensor:
    """Interpolate linearly along one axis from `old` to `new` pixels, clamped to the first and last pixel centres."""
    # In units of 1 / (2 new) pixels, every centre is an integer.
    centres = 2 * torch.arange(new) + 1  # pyright: ignore[reportCallIssue, reportArgumentType]
    at = (centres * old - new).clamp(min=0)
    before = torch.div(at, 2 * new, rounding_mode="floor")
    share = (at - before * 2 * new).float() / (2 * new).float()
    low, high = (image.index_select(axis, place) for place in (before, (before + 1).minimum(old - 1)))
    return low + (high - low) * (share if axis == 2 else share[:, None])


class GraphForm(nn.Module):
    """Traceable detector: RGB (3, H, W) from 0 to 1, or uint8 (H, W, 3) with `pixels` -> the outputs `names`.

    RoIAlign is torchvision's operator, which ONNX supports. The detector gets an extra proposal with a high score,
    whose detection is removed at the end, because OpenVINO returns a random detection if there is none.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], *, pixels: bool):
        super().__init__()
        self.names, self.pixels = names, pixels
        self.detector = deepcopy(model)
        for name, module in list(self.detector.named_modules()):
            if isinstance(module, FastRoIAlign):
                replace_module(self.detector, name, module.pooler)
        if "roi_heads" in dict(self.detector.named_children()):
            _add_sliver_region(self.detector.get_submodule("roi_heads"))
            if "masks" in names:
                paste_by_products(self.detector.get_submodule("transform"))
        else:
            _add_sliver_anchor(self.detector)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.pixels:
            image = image.permute(2, 0, 1).float() / 255
        (found,) = self.detector([image])
        widths = found["boxes"][:, 2] - found["boxes"][:, 0]
        others = torch.nonzero(widths > widths.min()).squeeze(1)
        return tuple(found[name][others] for name in self.names)


def _sliver(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the extra proposal's logits (1, classes), its box (1, 4), and zero box deltas for every class (1, 4
    classes)."""
    sure = torch.full((1, classes), -_SURE)
    sure[0, 1] = _SURE
    return sure, torch.tensor([[0.0, 0.0, _SLIVER_PX, _SLIVER_PX]]), torch.zeros(1, 4 * classes)


def _add_sliver_region(heads: Any) -> None:
    plain = heads.postprocess_detections
    heads.detections_per_img += 1

    def postprocess(logits: Tensor, regression: Tensor, proposals: list[Tensor], shapes: Any) -> Any:
        sure, box, still = _sliver(logits.shape[1])
        (regions,) = proposals
        return plain(torch.cat([logits, sure]), torch.cat([regression, still]), [torch.cat([regions, box])], shapes)

    vars(heads)["postprocess_detections"] = postprocess


def _add_sliver_anchor(detector: Any) -> None:
    plain = detector.postprocess_detections
    detector.detections_per_img += 1
    detector.topk_candidates += 1

    def postprocess(outputs: dict[str, Tensor], anchors: list[Tensor], shapes: Any) -> Any:
        sure, box, still = _sliver(outputs["cls_logits"].shape[2])
        (boxes,) = anchors
        more = {
            "cls_logits": torch.cat([outputs["cls_logits"], sure[None]], dim=1),
            "bbox_regression": torch.cat([outputs["bbox_regression"], still[None, :, :4]], dim=1),
        }
        return plain(more, [torch.cat([boxes, box])], shapes)

    vars(detector)["postprocess_detections"] = postprocess


def paste_by_products(transform: Any) -> None:
    """Make the transform of a Mask R-CNN use `paste_masks` for the masks of one image.

    torchvision's traceable form concatenates tensors in a loop, some of them empty; in OpenVINO it returns other values
    below masks that are one pixel wide.
    """
    plain = transform.postprocess

    def postprocess(results: list[dict[str, Tensor]], shapes: Any, sizes: Any) -> list[dict[str, Tensor]]:
        (found,) = plain([{name: part for name, part in results[0].items() if name != "masks"}], shapes, sizes)
        return [{**found, "masks": paste_masks(results[0]["masks"], found["boxes"], sizes[0])}]

    vars(transform)["postprocess"] = postprocess


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste masks (N, 1, side, side) of boxes (N, 4), x0 y0 x1 y1 in pixels, into an image of `size` (height, width) ->
    (N, 1, height, width): the same values as torchvision's `paste_masks_in_image` in models/detection/roi_heads.py.

    Interpolation along one axis is a matrix product.
    """
    inner = int(masks.shape[-1])
    bordered = nn.functional.pad(masks[:, 0], (1, 1, 1, 1))
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((inner + 2) / inner)
    first, last = (centre - half).long(), (centre + half).long()
    across, down = (_pasting_weights(first[:, axis], last[:, axis], size[1 - axis], inner + 2) for axis in (0, 1))
    return (down @ bordered @ across.transpose(1, 2))[:, None]


def _pasting_weights(first: Tensor, last: Tensor, length: int, side: int) -> Tensor:
    """Return the weights (N, length, side) of `side` cells, stretched over pixels `first` to `last` (N,), at `length`
    pixels."""
    pixels = torch.arange(length)
    from_first = pixels - first[:, None]
    lengths = (last - first + 1).clamp(min=1)[:, None]
    at = ((from_first + 0.5) * (side / lengths) - 0.5).clamp(min=0, max=side - 1)
    weights = (1 - (at[..., None] - torch.arange(side)).abs()).clamp(min=0)
    inside = (from_first >= 0) & (pixels <= last[:, None])
    return weights * inside[..., None]
