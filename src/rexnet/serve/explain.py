"""Explanations of a classifier: Grad-CAM of one image, with its place in the image's own pixels."""

from dataclasses import dataclass
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rexnet.data.preprocess import Preprocess, middle
from rexnet.models.gradcam import grad_cam
from rexnet.serve.http_errors import quoted
from rexnet.training.checkpoint import TrainedRexNet

MAX_HEAT_PX = 64
"""Largest side of a heat map. The network's own map has only a few cells per side, so nothing is lost."""

Region = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A heat map of one image: the areas where the network sees a class."""

    name: str
    probability: float
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    region: Region
    """Left, top, right, bottom of the network's input, in pixels of the image."""
    heat: Tensor
    """(H, W) over `region`, from 0 to 1; all 0 if nothing supports the class."""

    def to_dict(self) -> dict[str, Any]:
        """Return the answer of /explain, ready for JSON."""
        height, width = self.heat.shape
        values = [[round(value, 3) for value in row] for row in self.heat.tolist()]
        return {
            "class": self.name,
            "probability": self.probability,
            "width": self.size[0],
            "height": self.size[1],
            "region": [round(edge, 2) for edge in self.region],
            "heatmap": {"height": height, "width": width, "values": values},
        }


@final
class Explainer:
    """Grad-CAM explainer of one trained classifier, safe to use from several threads at once."""

    def __init__(self, model: TrainedRexNet):
        self.model = model

    def __call__(self, image: Image.Image, name: str | None = None) -> Explanation:
        """Explain a class in an upright RGB image; None: the most probable class. Raise ValueError for an unknown
        class, and for a network whose output is not finite.
        """
        if name is not None and name not in self.model.classes:
            raise ValueError(
                f"the model has no class {quoted(name)}; /models lists its {len(self.model.classes)} classes"
            )
        device = next(self.model.parameters()).device
        images = self.model.preprocess(image)[None].to(device)
        with torch.inference_mode():
            probabilities = self.model(images).softmax(1)[0]
        if not probabilities.isfinite().all():
            raise ValueError("the output of the network is not finite (nan or inf): its training has failed")
        index = int(probabilities.argmax()) if name is None else self.model.classes.index(name)
        heat = grad_cam(self.model, images, torch.tensor([index], device=device))
        side_px = min(MAX_HEAT_PX, heat.shape[-1])
        return Explanation(
            name=self.model.classes[index],
            probability=float(probabilities[index]),
            size=image.size,
            region=seen_region(self.model.preprocess, image.size),
            heat=functional.interpolate(heat[:, None], size=(side_px, side_px), mode="area")[0, 0].cpu(),
        )


def seen_region(preprocess: Preprocess, size: tuple[int, int]) -> Region:
    """Return left, top, right, bottom of the part of an image of (width, height) pixels that `preprocess` keeps."""
    box = middle(size)
    side = min(box.width, box.height) * preprocess.image_size_px / preprocess.short_side_px
    left, top = box.left + (box.width - side) / 2, box.top + (box.height - side) / 2
    return left, top, left + side, top + side
