"""Thumbnails embedded in a page as data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rexnet.data.preprocess import Preprocess

THUMBNAIL_PX = 144
"""Maximum length of a thumbnail's longer side, which bounds the bytes that an image adds to a page."""
_SMALL_PX = 64
"""Maximum length of the longer side of images that are kept pixel by pixel."""


class Thumbnail(NamedTuple):
    """An image as a data URI. `is_small`: it has few enough pixels to be enlarged without smoothing."""

    uri: str
    is_small: bool


def thumbnail(image: Image.Image, *, side_px: int = THUMBNAIL_PX) -> Thumbnail:
    """Return the whole RGB image, shrunk if its longer side is above `side_px`."""
    if max(image.size) > side_px:
        image = image.copy()
        image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Use PNG only for small images, which JPEG would blur; for a photo it would be ten times as large.
    is_small = max(image.size) <= _SMALL_PX
    kind = "png" if is_small else "jpeg"
    image.save(buffer, format=kind, quality=82)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{data}", is_small)


def heat_thumbnail(image: Tensor, heat: Tensor, preprocess: Preprocess) -> Thumbnail:
    """Return the network's input, float (3, S, S) from `preprocess`, in gray with an overlay of `heat` (S, S), 0 to
    1."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pixels = (image * std + mean).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    view = Image.fromarray(pixels).convert("L").convert("RGB")
    # Enlarge small views first, otherwise the heat map would have their low resolution.
    size_px = (THUMBNAIL_PX, THUMBNAIL_PX)
    view = view.resize(size_px, Image.Resampling.NEAREST if len(pixels) <= _SMALL_PX else Image.Resampling.LANCZOS)
    strength = np.asarray(Image.fromarray(heat.numpy().astype(np.float32)).resize(size_px, Image.Resampling.BILINEAR))
    return thumbnail(_blend(np.asarray(view), strength))


def heat_scale() -> Thumbnail:
    """Return the colours of a heat map over mid gray, from 0 on the left to 1 on the right."""
    strength = np.tile(np.linspace(0, 1, THUMBNAIL_PX, dtype=np.float32), (8, 1))
    return thumbnail(_blend(np.full((*strength.shape, 3), 128), strength))


def _blend(view: np.ndarray, strength: np.ndarray) -> Image.Image:
    """Blend the colours of a heat map (H, W), which is also the opacity, over a gray image (H, W, 3) of 0 to 255."""
    import matplotlib

    strength = strength.clip(0, 1)[..., None]
    colours = 255 * matplotlib.colormaps["inferno"](0.25 + 0.7 * strength[..., 0])[..., :3]
    mixed = view * (1 - 0.75 * strength) + colours * 0.75 * strength
    return Image.fromarray(mixed.round().astype(np.uint8))
