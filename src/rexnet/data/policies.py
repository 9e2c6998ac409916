"""timm's augmentation policies on arrays: what is drawn, and how, stays timm's; only the pixels of its operations are
computed where numpy is faster than Pillow and the copies between the two."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from PIL import Image

Picture = np.ndarray | Image.Image
"""uint8 (H, W, 3) red, green, blue, or the same as a PIL image: each operation takes either and returns what it has."""


def as_array(image: Picture) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else np.array(image)


def on_arrays(step: Any) -> Callable[[Picture], Picture]:
    """A step of timm's transforms that takes either kind of picture. The operations of RandAugment and AutoAugment
    exchange their functions for those of this module, in place; any other step gets PIL images."""
    from timm.data.auto_augment import AutoAugment, RandAugment

    if isinstance(step, RandAugment):
        operations = step.ops
        step.ops = np.array(operations)  # which numpy's choice would otherwise make of it for every picture
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

    def __call__(self, image: Picture, *args: Any, **kwargs: Any) -> Image.Image:
        return self.function(Image.fromarray(image) if isinstance(image, np.ndarray) else image, *args, **kwargs)


def _invert(image: Picture, **_: Any) -> np.ndarray:
    return ~as_array(image)


def _posterize(image: Picture, bits_to_keep: int, **_: Any) -> np.ndarray:
    return as_array(image) & np.uint8(256 - 2 ** (8 - min(bits_to_keep, 8)))


def _solarize(image: Picture, threshold: int, **_: Any) -> np.ndarray:
    pixels = as_array(image)
    return pixels ^ ((pixels >= threshold) * np.uint8(255))


def _solarize_add(image: Picture, add: int, **_: Any) -> np.ndarray:
    pixels = as_array(image)
    return pixels + (pixels < 128) * np.uint8(add)  # timm adds 128 at most


def _brightness(image: Picture, factor: float, **_: Any) -> np.ndarray:
    scaled = as_array(image) * np.float32(factor)
    return np.minimum(scaled, 255, out=scaled).astype(np.uint8)


def _sharpness(image: Picture, factor: float, **_: Any) -> np.ndarray:
    """Blends with the picture smoothed by a 3 x 3 mean whose centre counts five times; the outermost pixels stay."""
    pixels = as_array(image)
    if min(pixels.shape[:2]) < 3:
        return pixels
    wide = pixels.astype(np.int16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = np.floor(total * np.float32(1 / 13) + np.float32(0.5))  # 13 is odd: no sum lies half-way
    blended = smooth + np.float32(factor) * (wide[1:-1, 1:-1] - smooth)
    result = pixels.copy()
    result[1:-1, 1:-1] = np.clip(blended, 0, 255, out=blended)
    return result


def _translate_x(image: Picture, share: float, **style: Any) -> np.ndarray:
    height, width, _ = (pixels := as_array(image)).shape
    return _shift(pixels, np.full(height, share * width), axis=1, **style)


def _translate_y(image: Picture, share: float, **style: Any) -> np.ndarray:
    height, width, _ = (pixels := as_array(image)).shape
    return _shift(pixels, np.full(width, share * height), axis=0, **style)


def _shear_x(image: Picture, factor: float, **style: Any) -> np.ndarray:
    pixels = as_array(image)
    return _shift(pixels, factor * (np.arange(pixels.shape[0]) + 0.5), axis=1, **style)


def _shear_y(image: Picture, factor: float, **style: Any) -> np.ndarray:
    pixels = as_array(image)
    return _shift(pixels, factor * (np.arange(pixels.shape[1]) + 0.5), axis=0, **style)


def _shift(
    pixels: np.ndarray, shifts: np.ndarray, *, axis: int, resample: Any, fillcolor: tuple[int, ...]
) -> np.ndarray:
    """Each row (`axis` 1) or column (0) as it is `shifts` pixels further along, interpolated between 2 or 4 neighbours
    as Pillow's `Image.transform` does it: the last pixel repeats for half a pixel, `fillcolor` begins there, and
    fractions of a level are cut off."""
    method = random.choice(resample) if isinstance(resample, list | tuple) else resample
    height, width, _ = pixels.shape
    starts, length = np.floor(shifts), pixels.shape[axis]
    firsts, lasts = (np.clip(np.ceil(edge - shifts - 0.5), 0, length) for edge in (0, length))
    runs = list(_runs(starts, firsts, lasts))
    begin, end = (pixels[:, :1], pixels[:, -1:]) if axis else (pixels[:1], pixels[-1:])
    padded = np.concatenate([begin] * 3 + [pixels] + [end] * 3, axis=axis).swapaxes(0, 1 - axis)
    # From one neighbour before each pixel to two after it.
    near = np.zeros((height + 3 * (1 - axis), width + 3 * axis, 3), dtype=np.uint8)
    for lines, start, first, last in runs:
        near.swapaxes(0, 1 - axis)[lines, first : last + 3] = padded[lines, first + start + 2 : last + start + 5]
    values, size = torch.from_numpy(near).flatten(1).float(), 3 * width if axis else height
    places = [values[:, 3 * k : 3 * k + size] if axis else values[k : k + size] for k in range(4)]

    def scale(weights: np.ndarray) -> torch.Tensor:
        """One weight a row, or one a column and so for its three channels."""
        tensor = torch.from_numpy(weights.astype(np.float32))
        return tensor[:, None] if axis else tensor.repeat_interleave(3)

    if method == Image.Resampling.BICUBIC:
        # The small amount added keeps rounding of the weights from cutting off whole levels.
        mixed = torch.full((height, 3 * width), 1e-3)
        for place, weights in zip(places, _cubic(shifts - starts), strict=True):
            mixed.addcmul_(place, scale(weights))
        mixed.clamp_(0, 255)
    else:
        mixed = torch.lerp(places[1], places[2], scale(shifts - starts))
    result = mixed.byte().view(height, width, 3).numpy()
    filled = np.broadcast_to(np.tile(np.array(fillcolor, dtype=np.uint8), (width, 1)), pixels.shape)
    source, target = (array.swapaxes(0, 1 - axis) for array in (filled, result))
    for lines, _, first, last in runs:
        target[lines, :first] = source[lines, :first]
        target[lines, last:] = source[lines, last:]
    return result


def _runs(*columns: np.ndarray) -> Iterator[tuple[slice, int, int, int]]:
    """Consecutive rows or columns that have the same three numbers, and those."""
    table = np.stack(columns, axis=1).astype(int)
    begins = [0, *(np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1).tolist()]
    for begin, end in pairwise([*begins, len(table)]):
        start, first, last = table[begin].tolist()
        yield slice(begin, end), start, first, last


def _cubic(part: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of four neighbours for a point that lies `part` of the way from the second to the third: the cubic of
    Pillow's turning and shearing, which is steeper than that of its resizing."""
    square, cube = part**2, part**3
    return 2 * square - part - cube, 1 - 2 * square + cube, part + square - cube, cube - square


_ON_ARRAYS: dict[str, Callable[..., np.ndarray]] = {
    "Invert": _invert,
    "Posterize": _posterize,
    "PosterizeIncreasing": _posterize,
    "PosterizeOriginal": _posterize,
    "Solarize": _solarize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "Brightness": _brightness,
    "BrightnessIncreasing": _brightness,
    "Sharpness": _sharpness,
    "SharpnessIncreasing": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}
