import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rexnet.serve.objects import uncompressed_rle

# Of pycocotools with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.bool_, SIZES))
def test_pycocotools_reads_the_same_mask(mask):
    masks = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    runs = uncompressed_rle(torch.from_numpy(mask).float(), width=width, height=height)
    assert runs["size"] == [height, width] and sum(runs["counts"]) == mask.size
    assert np.array_equal(masks.decode(masks.frPyObjects(runs, height, width)).astype(bool), mask)


def test_a_mask_of_a_smaller_copy_covers_the_whole_image():
    small = torch.tensor([[0.0, 1.0], [0.0, 0.4]])
    assert uncompressed_rle(small, width=4, height=4) == {"size": [4, 4], "counts": [8, 2, 2, 2, 2]}


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.bool_, SIZES), SIZES)
def test_each_pixel_is_as_the_nearest_of_the_mask(mask, more):
    height, width = (part + extra for part, extra in zip(mask.shape, more, strict=True))
    counts = uncompressed_rle(torch.from_numpy(mask).float(), width=width, height=height)["counts"]
    found = np.repeat(np.arange(len(counts)) % 2, counts).reshape((height, width), order="F")
    across = np.floor((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    down = np.floor((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    assert np.array_equal(found, mask[down][:, across]) and 0 not in counts[1:]


def test_masks_of_a_large_image_take_little_memory():
    tracemalloc.start()
    try:
        runs = uncompressed_rle(torch.eye(1000), width=8000, height=6000)
        assert sum(runs["counts"]) == 48_000_000
        assert tracemalloc.get_traced_memory()[1] < 48_000_000
    finally:
        tracemalloc.stop()
