import io
import tempfile
import threading
import time
import weakref
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rexnet.data.decode import open_image
from rexnet.data.image_stream import each_image, image_reader, in_chunks, in_order, open_any
from rexnet.errors import BadImageError
from tests.drawings import encoded, landscape, odd_images


@pytest.mark.seconds
def test_results_are_in_order_regardless_of_duration():
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * 10

    assert list(in_order(slow, range(40), threads=4, ahead=7)) == [10 * number for number in range(40)]
    assert list(in_order(slow, [], threads=4, ahead=7)) == []
    assert list(in_chunks(in_order(slow, range(5), threads=1, ahead=1), 2)) == [[0, 10], [20, 30], [40]]


def test_ten_thousand_items_are_never_in_memory_together():
    alive = weakref.WeakSet()

    class Item:
        def __init__(self):
            alive.add(self)

    stream = in_order(lambda item: item, (Item() for _ in range(10_000)), threads=3, ahead=8)
    counts = [len(alive) for _ in stream]
    most = max(counts)
    assert len(counts) == 10_000 and 8 <= most <= 8 + 3 + 2, (
        "those ahead, those just done in each thread, and the one in hand"
    )


def test_an_endless_source_can_be_abandoned_and_errors_keep_their_position():
    before = threading.active_count()
    stream = in_order(lambda number: 1 / (5 - number), count(), threads=3, ahead=10)
    assert len(list(islice(stream, 5))) == 5
    with pytest.raises(ZeroDivisionError):
        next(stream)
    endless = in_order(lambda number: number, count(), threads=3, ahead=10)
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == before


def test_an_error_of_the_source_is_raised():
    def broken():
        yield 1
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        list(in_order(lambda number: number, broken(), threads=1, ahead=3))


@pytest.mark.parametrize("name", odd_images())
def test_pixels_do_not_depend_on_the_kind_of_source(name, tmp_path):
    content = odd_images()[name]
    file = tmp_path / "image"
    file.write_bytes(content)
    expected = np.asarray(open_image(file))
    assert not expected.flags.writeable, "torch warns of arrays that are read-only"
    tensor = torch.from_numpy(expected.copy()).permute(2, 0, 1)
    with Image.open(file) as opened, file.open("rb", buffering=0) as raw, tempfile.SpooledTemporaryFile() as spool:
        spool.write(content)
        spool.seek(0)
        binary = (bytearray(content), memoryview(content), io.BytesIO(content), raw, spool)
        for source in (str(file), file, content, *binary, opened, expected, expected[:, ::-1][:, ::-1], tensor):
            assert [item is source for item in each_image(source)] == [True]
            found = open_any(source)
            assert found.mode == "RGB" and np.array_equal(np.asarray(found), expected), type(source)
        assert np.array_equal(np.asarray(open_any(open_any(opened))), expected), "turned twice"
        if opened.mode == "RGB":
            assert np.array_equal(np.asarray(open_any(ImageOps.exif_transpose(opened))), expected)


def test_one_several_and_batches_of_images():
    array, tensor = np.zeros((5, 4, 3), np.uint8), torch.zeros(3, 5, 4, dtype=torch.uint8)
    for one in ("a.png", Path("a.png"), b"x", Image.new("RGB", (2, 2)), array, tensor):
        assert [type(item) for item in each_image(one)] == [type(one)]
    assert [item.shape for item in each_image(np.zeros((6, 5, 4, 3), np.uint8))] == [(5, 4, 3)] * 6
    assert [item.shape for item in each_image(torch.zeros(6, 3, 5, 4))] == [(3, 5, 4)] * 6
    assert len(list(each_image(["a", np.stack([array] * 3), (tensor, "b")]))) == 6
    assert list(each_image(())) == []
    for wrong in (None, 3, [None], [["a"], 3.5], {"image": "a.png"}, [io.StringIO("a.png")]):
        with pytest.raises(ValueError, match=r"type (NoneType|int|float|dict|StringIO); allowed: a path"):
            list(each_image(wrong))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((4, 5), np.uint8), r"an array is uint8 \(4, 5\); allowed: uint8 \(H, W, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), r"an array is uint8 \(3, 4, 5\)"),
        (np.zeros((4, 5, 3), np.float32), r"an array is float32 \(4, 5, 3\)"),
        (torch.zeros(3, 4, 5), r"a tensor is float32 \(3, 4, 5\); allowed: uint8 \(3, H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) has no pixels"),
        (torch.zeros(3, 4, 0, dtype=torch.uint8), r"shape \(3, 4, 0\) has no pixels"),
        (Image.new("RGB", (0, 5)), r"shape \(0, 5\) has no pixels"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor is uint8 \(4, 5, 3\)"),
    ],
)
def test_arrays_of_another_kind_are_never_skipped(source, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        image_reader(lambda image: image, "skip")(source)
    assert not isinstance(refused.value, BadImageError), "the caller is wrong, not the file"


def test_a_bad_file_stops_the_stream_or_yields_its_error(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"text")
    name, error = image_reader(lambda image: image, "skip")(bad)
    assert name == str(bad) and isinstance(error, BadImageError)
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        image_reader(lambda image: image, "error")(str(bad))
    torn = Image.open(io.BytesIO(encoded(landscape(60, 60), "JPEG")[:900]))
    with pytest.raises(BadImageError, match="damaged or incomplete"):
        open_any(torn)
