"""timm's augmentation policies on arrays: the random draws stay timm's; only the pixel operations are computed in
numpy, if that is faster than Pillow including the conversions."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

ArrayOrImage = np.ndarray | Image.Image
"""uint8 (H, W, 3) red, green, blue, or the same as a PIL image: each operation accepts and returns either."""

_LEVELS = np.arange(256, dtype=np.float32)
# Pillow's weights of red, green and blue, in 65536ths.
_GRAY = np.array([19595, 38470, 7471], dtype=np.float32)


def as_array(image: ArrayOrImage) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else np.asarray(image)


def on_arrays(step: Any) -> Callable[[ArrayOrImage], ArrayOrImage]:
    """Return a step of timm's transforms that takes either kind of image. The functions of RandAugment's and
    AutoAugment's operations are replaced by those of this module, in place; any other step gets PIL images."""
    from timm.data.auto_augment import AutoAugment, RandAugment

    if isinstance(step, RandAugment):
        operations = step.ops
        step.ops = np.array(operations)  # otherwise numpy's choice would convert it for every image
    elif isinstance(step, AutoAugment):
        operations = [operation for sub_policy in step.policy for operation in sub_policy]
    else:
        return _OnPillow(step)
    for operation in operations:
        operation.aug_fn = _ON_ARRAYS.get(operation.name) or _OnPillow(operation.aug_fn)
    return step


@final
@dataclass(frozen=True)
class _OnPillow:
    function: Callable[..., Image.Image]

    def __call__(self, image: ArrayOrImage, *args: Any, **kwargs: Any) -> Image.Image:
        return self.function(Image.fromarray(image) if isinstance(image, np.ndarray) else image, *args, **kwargs)


def _invert(image: ArrayOrImage, **_: Any) -> np.ndarray:
    return ~as_array(image)


def _posterize(image: ArrayOrImage, bits_to_keep: int, **_: Any) -> np.ndarray:
    return as_array(image) & np.uint8(256 - 2 ** (8 - min(bits_to_keep, 8)))


def _solarize(image: ArrayOrImage, threshold: int, **_: Any) -> np.ndarray:
    pixels = as_array(image)
    return pixels ^ ((pixels >= threshold) * np.uint8(255))


def _solarize_add(image: ArrayOrImage, add: int, **_: Any) -> np.ndarray:
    pixels = as_array(image)
    return pixels + (pixels < 128) * np.uint8(add)  # timm adds 128 at most


def _brightness(image: ArrayOrImage, factor: float, **_: Any) -> np.ndarray:
    return _look_up(as_array(image), np.minimum(_LEVELS * np.float32(factor), 255))


def _contrast(image: ArrayOrImage, factor: float, **_: Any) -> np.ndarray:
    """Blend with the mean of the gray image, rounded."""
    pixels = as_array(image)
    # Integers below 2 ** 24 up to here, so exact in float32.
    gray = np.floor((pixels.reshape(-1, 3).astype(np.float32) @ _GRAY + 2**15) / 2**16)
    mean = np.floor(gray.mean(dtype=np.float64) + 0.5).astype(np.float32)
    return _look_up(pixels, np.clip(mean + np.float32(factor) * (_LEVELS - mean), 0, 255))


def _look_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each value by its entry in `table`, (256,), truncated to an integer."""
    # Twice as fast as numpy's own conversion.
    changed = bytearray(pixels).translate(table.astype(np.uint8).tobytes())
    return np.frombuffer(changed, np.uint8).reshape(pixels.shape)


def _sharpness(image: ArrayOrImage, factor: float, **_: Any) -> np.ndarray:
    """Blend with the image smoothed by a 3 x 3 mean with five times the weight at its centre; border pixels stay."""
    pixels = as_array(image)
    if min(pixels.shape[:2]) < 3:
        return pixels
    wide = pixels.astype(np.int16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = np.floor(total * np.float32(1 / 13) + np.float32(0.5))  # 13 is odd, so no sum lies halfway
    blended = smooth + np.float32(factor) * (wide[1:-1, 1:-1] - smooth)
    result = pixels.copy()
    result[1:-1, 1:-1] = np.clip(blended, 0, 255, out=blended)
    return result


def _translate_x(image: ArrayOrImage, fraction: float, **style: Any) -> np.ndarray:
    height, width, _ = (pixels := as_array(image)).shape
    return _shift(pixels, np.full(height, fraction * width), axis=1, **style)


def _translate_y(image: ArrayOrImage, fraction: float, **style: Any) -> np.ndarray:
    height, width, _ = (pixels := as_array(image)).shape
    return _shift(pixels, np.full(width, fraction * height), axis=0, **style)


def _shear_x(image: ArrayOrImage, factor: float, **style: Any) -> np.ndarray:
    pixels = as_array(image)
    return _shift(pixels, factor * (np.arange(pixels.shape[0]) + 0.5), axis=1, **style)


def _shear_y(image: ArrayOrImage, factor: float, **style: Any) -> np.ndarray:
    pixels = as_array(image)
    return _shift(pixels, factor * (np.arange(pixels.shape[1]) + 0.5), axis=0, **style)


def _shift(
    pixels: np.ndarray, shifts: np.ndarray, *, axis: int, resample: Any, fillcolor: tuple[int, ...]
) -> np.ndarray:
    """Move each row (`axis` 1) or column (0) by `shifts` pixels, interpolated between 2 or 4 neighbours as Pillow's
    `Image.transform` does: the last pixel extends by half a pixel, then `fillcolor` begins, and fractions of a level
    are truncated."""
    method = random.choice(resample) if isinstance(resample, list | tuple) else resample
    (height, width, _), length = pixels.shape, pixels.shape[axis]
    shifts = np.clip(shifts, -length, length)  # an image that moves by its own length is gone
    starts = np.floor(shifts).astype(int)
    weights = _cubic(shifts - starts) if method == Image.Resampling.BICUBIC else _linear(shifts - starts)
    mixed = _mix(_with_edges(pixels, starts, axis), weights, axis)
    result = np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)
    # Small integers, with the values that vary by row on the left, are fastest to compare in numpy.
    first = np.ceil(-shifts - 0.5).astype(np.int16)
    first, places = (
        (first[:, None], np.arange(width, dtype=np.int16).repeat(3))
        if axis
        else (first.repeat(3), np.arange(height, dtype=np.int16)[:, None])
    )
    outside = (first > places) | (first + np.int16(length) <= places)
    np.copyto(result, np.tile(np.array(fillcolor, dtype=np.uint8), width), where=outside)
    return result.reshape(pixels.shape)


def _with_edges(pixels: np.ndarray, starts: np.ndarray, axis: int) -> np.ndarray:
    """Return uint8 (H, 3 (W + 3)) for `axis` 1, (H + 3, 3 W) for 0: rows or columns that begin at pixel `starts` - 1 of
    the image and are three pixels longer than it. The image's edge is repeated for three pixels; values further out are
    arbitrary."""
    height, width, _ = pixels.shape
    if axis:
        # A row's window may extend into neighbouring rows.
        room = np.empty((height + 2, width + 6, 3), dtype=np.uint8)
        room[1:-1, 3:-3], room[1:-1, :3], room[1:-1, -3:] = pixels, pixels[:, :1], pixels[:, -1:]
        begins = np.arange(1, height + 1) * (width + 6) + 2 + starts
        return sliding_window_view(room.reshape(-1), 3 * (width + 3))[3 * begins]
    room = np.empty((3 * height + 6, width, 3), dtype=np.uint8)
    middle = room[height : 2 * height + 6]
    middle[3:-3], middle[:3], middle[-3:] = pixels, pixels[:1], pixels[-1:]
    near = np.empty((height + 3, width, 3), dtype=np.uint8)
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(starts)) + 1).tolist(), width]):
        above = height + 2 + starts[begin]
        near[:, begin:end] = room[above : above + height + 3, begin:end]
    return near.reshape(height + 3, -1)


def _mix(near: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Return float32 (H, 3 W): sums of 2 or 4 neighbours times `weights` (2 or 4, rows or columns)."""
    # The small addition keeps rounding errors from truncating whole levels.
    weights = (weights * (1 + 1e-5)).astype(np.float32)
    if len(weights) == 2:
        near = near[:, 3:-3] if axis else near[1:-1]
    near = near.astype(np.float32)
    if axis:
        windows = sliding_window_view(near, near.shape[1] - 3 * (len(weights) - 1), axis=1)[:, ::3]
        return np.einsum("ykx,ky->yx", windows, weights)
    windows = sliding_window_view(near, len(near) - (len(weights) - 1), axis=0)
    return np.einsum("kxy,kx->yx", windows, weights.repeat(3, axis=1))


def _linear(part: np.ndarray) -> np.ndarray:
    """Return weights (2, N) of the neighbours of points that lie `part` of the way from the first to the second."""
    return np.stack([1 - part, part])


def _cubic(part: np.ndarray) -> np.ndarray:
    """Return weights (4, N) of the neighbours of points that lie `part` of the way from the second to the third:
    Pillow's cubic for rotating and shearing, which is steeper than the one for resizing."""
    square, cube = part**2, part**3
    return np.stack([2 * square - part - cube, 1 - 2 * square + cube, part + square - cube, cube - square])


_ON_ARRAYS: dict[str, Callable[..., np.ndarray]] = {
    "Invert": _invert,
    "Posterize": _posterize,
    "PosterizeIncreasing": _posterize,
    "PosterizeOriginal": _posterize,
    "Solarize": _solarize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "Contrast": _contrast,
    "ContrastIncreasing": _contrast,
    "Brightness": _brightness,
    "BrightnessIncreasing": _brightness,
    "Sharpness": _sharpness,
    "SharpnessIncreasing": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}
