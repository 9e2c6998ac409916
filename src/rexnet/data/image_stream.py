"""Images from any source, read ahead in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedIOBase, IOBase, RawIOBase
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TypeVar, cast

import numpy as np
from PIL import Image
from torch import Tensor

from rexnet.data.decode import BadImagePolicy, as_rgb, open_image
from rexnet.errors import BadImageError

Item = TypeVar("Item")
Result = TypeVar("Result")

BinaryFile = RawIOBase | BufferedIOBase | SpooledTemporaryFile
ImageSource = str | PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | np.ndarray | Tensor
"""A path, the content of a file, an open binary file, a Pillow image, an array uint8 (H, W, 3) or a tensor uint8
(3, H, W), both red, green, blue."""
Images = ImageSource | Iterable[ImageSource]
"""One image or several: an array (B, H, W, 3), a tensor (B, 3, H, W), or an iterable of images or of such batches."""


def each_image(images: Images) -> Iterator[ImageSource]:
    """Yield the sources in order. Raise ValueError if there are none."""
    one = isinstance(images, str | PathLike | bytes | bytearray | memoryview | BinaryFile | Image.Image)
    if one or (isinstance(images, np.ndarray | Tensor) and images.ndim != 4):
        yield images  # pyright: ignore[reportReturnType]  # narrowed to a memoryview of sources
    elif isinstance(images, Iterable) and not isinstance(images, Mapping | IOBase):
        for item in images:
            yield from each_image(item)
    else:
        raise ValueError(
            f"one of the images has the type {type(images).__name__}; allowed: a path, the bytes of an image file, an "
            "image file opened in binary mode, a Pillow image, uint8 arrays (H, W, 3) and tensors (3, H, W), and "
            "iterables of these"
        )


def open_any(source: ImageSource) -> Image.Image:
    """Open an image, RGB and upright, with the same pixels for any kind of source. Raise BadImageError for a file that
    cannot be read, and ValueError for arrays and tensors of other shapes or types, and without pixels.
    """
    shape = source.size if isinstance(source, Image.Image) else getattr(source, "shape", ())
    if 0 in shape:
        raise ValueError(f"an image of the shape {tuple(shape)} has no pixels; allowed: a width and a height from 1")
    if isinstance(source, Image.Image):
        return as_rgb(source)
    if isinstance(source, Tensor):
        if source.ndim != 3 or source.shape[0] != 3 or str(source.dtype) != "torch.uint8":
            raise ValueError(f"a tensor is {_describe(source)}; allowed: uint8 (3, H, W), red, green, blue")
        return Image.fromarray(source.permute(1, 2, 0).contiguous().cpu().numpy())
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise ValueError(f"an array is {_describe(source)}; allowed: uint8 (H, W, 3), red, green, blue")
        return Image.fromarray(source)
    if isinstance(source, RawIOBase | BufferedIOBase | SpooledTemporaryFile):
        source = bytes(cast(IO[bytes], source).read())
    return open_image(Path(source) if isinstance(source, str | PathLike) else bytes(source))


def image_reader(
    prepare: Callable[[Image.Image], Result], bad_image: BadImagePolicy
) -> Callable[[ImageSource], tuple[str, Result | BadImageError]]:
    """Return a function from a source to its path, "" if it has none, and the result of `prepare`; with "skip", an
    unreadable image yields its error as the result."""

    def read(source: ImageSource) -> tuple[str, Result | BadImageError]:
        name = fspath(source) if isinstance(source, str | PathLike) else ""
        try:
            return name, prepare(open_any(source))
        except BadImageError as error:
            named = error if error.path else type(error)(name, error.reason)
            if bad_image == "error":
                raise named from error
            return name, named

    return read


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed in threads, at most `ahead` items ahead; no more than
    `ahead` results are in memory at once."""
    remaining = iter(items)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        pending.extend(pool.submit(function, item) for item in islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last one may be shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _describe(values: np.ndarray | Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
