import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet.data.preprocess import Preprocess
from rexnet.report.images import THUMBNAIL_PX, Thumbnail, heat_scale, heat_thumbnail, thumbnail


def decode(image: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.uri.partition(",")[2])))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_small_images_keep_every_pixel():
    image = noise(16, 64)
    thumb = thumbnail(image)
    assert thumb.is_small and thumb.uri.startswith("data:image/png;base64,")
    assert np.array_equal(np.asarray(decode(thumb)), np.asarray(image))


@pytest.mark.parametrize(
    ("size", "small"), [((2000, 1000), (144, 72)), ((100, 120), (100, 120)), ((1, 9000), (1, 144))]
)
def test_large_images_are_shrunk_completely(size, small):
    image = noise(*size)
    thumb = thumbnail(image)
    assert decode(thumb).size == small and not thumb.is_small
    assert image.size == size, "the image itself is left alone"


def test_the_worst_image_takes_40_kilobytes():
    """Of a run there are at most 58 with the default number of mistakes: 24, 2 x 8 heat maps, 6 and 6."""
    assert len(thumbnail(noise(1000, 1000)).uri) < 40_000


@pytest.mark.parametrize("size_px", [16, 224])
def test_the_heat_map_is_aligned_with_the_image(size_px):
    preprocess = Preprocess(image_size_px=size_px, crop_ratio=1.0)
    seen = preprocess(Image.new("RGB", (300, 300), (100, 100, 100)))
    heat = torch.zeros(size_px, size_px)
    heat[: size_px // 2, : size_px // 2] = 1.0
    pixels = np.asarray(decode(heat_thumbnail(seen, heat, preprocess)).convert("RGB")).astype(int)
    assert pixels.shape == (THUMBNAIL_PX, THUMBNAIL_PX, 3)
    cold, hot = pixels[-30:, -30:], pixels[:30, :30]
    assert abs(cold - 100).max() <= 3, "gray as it was"
    assert (hot[..., 0] - hot[..., 2]).min() > 80, "warm"


def test_the_scale_has_the_colours_of_the_maps():
    preprocess = Preprocess(image_size_px=144, crop_ratio=1.0)
    seen = preprocess(Image.new("RGB", (144, 144), (128, 128, 128)))
    heat = torch.linspace(0, 1, 144).expand(144, 144)
    row = np.asarray(decode(heat_thumbnail(seen, heat, preprocess)).convert("RGB")).astype(int)[72]
    scale = np.asarray(decode(heat_scale()).convert("RGB")).astype(int)[4]
    assert abs(scale - row).max() <= 12, "JPEG apart"
    assert abs(scale[0] - 128).max() <= 12 and scale[-1][0] - scale[-1][2] > 80
