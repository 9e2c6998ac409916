import random

import numpy as np
import pytest
from PIL import Image

from rexnet.data.decode import MAX_PIXELS, open_image
from rexnet.data.jpeg import Box, open_jpeg
from rexnet.errors import BadImageError
from tests.drawings import encoded, landscape


def whole(jpeg) -> Box:
    return Box(0, 0, *jpeg.size)


def outcome(read) -> str | bytes:
    """The pixels, or the reason why there are none."""
    try:
        return np.asarray(read()).tobytes()
    except BadImageError as error:
        return error.reason


def cropped(data: bytes, box: Box) -> str | bytes:
    def read():
        jpeg = open_jpeg(data)
        return jpeg.crop(box, 1000) if jpeg else open_image(data).crop(box.corners)

    return outcome(read)


def landscape_bytes(data: bytes) -> bytes:
    return np.asarray(open_image(data)).tobytes()


class TestSamePixels:
    @pytest.mark.parametrize(
        "options",
        [
            {"quality": 95, "subsampling": "4:4:4"},
            {"quality": 75, "subsampling": "4:2:2"},
            {"quality": 30, "subsampling": "4:2:0"},
            {"quality": 80, "progressive": True},
            {"quality": 80, "restart_marker_rows": 1},
            {"quality": 90, "keep_rgb": True},
            {"quality": 90, "xmp": b"<x:xmpmeta/>"},
        ],
    )
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("size", [(97, 61), (1, 1), (16, 64), (3, 200)])
    def test_as_open_image(self, options, mode, size):
        if mode == "L":
            options = {name: value for name, value in options.items() if name not in ("subsampling", "keep_rgb")}
        data = encoded(landscape(*size).convert(mode), **options)
        expected = np.asarray(open_image(data))
        jpeg = open_jpeg(data)
        if options.get("keep_rgb"):  # may be left to open_image
            assert jpeg is None
            return
        assert jpeg is not None and jpeg.size == size
        np.testing.assert_array_equal(jpeg.crop(whole(jpeg), 1000), expected)
        box = Box(size[0] // 3, size[1] // 4, max(1, size[0] // 2), max(1, size[1] // 3))
        left, top, right, bottom = box.corners
        np.testing.assert_array_equal(jpeg.crop(box, 1000), expected[top:bottom, left:right])

    @pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    @pytest.mark.parametrize("least_px", [1000, 100])
    def test_orientation(self, orientation, least_px):
        """At full size to the bit; at half size, which a box of 300 pixels allows for 100, nearly."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(landscape(640, 480), quality=95, exif=exif)
        upright, jpeg, box = open_image(data), open_jpeg(data), Box(40, 80, 400, 320)
        assert jpeg is not None and jpeg.size == upright.size
        expected, pixels = upright.crop(box.corners), jpeg.crop(box, least_px)
        if least_px == 100:
            assert pixels.shape == (160, 200, 3)
            expected = expected.reduce(2)
        difference = np.abs(np.asarray(expected).astype(int) - pixels)
        assert difference.mean() <= (0 if least_px == 1000 else 1)

    def test_from_a_file(self, tmp_path):
        path = tmp_path / "ä.jpg"
        landscape(50, 40).save(path)
        for source in (path, str(path), path.read_bytes()):
            jpeg = open_jpeg(source)
            assert jpeg is not None
            np.testing.assert_array_equal(jpeg.crop(whole(jpeg), 1000), np.asarray(open_image(path)))


class TestReducedDecoding:
    @pytest.mark.parametrize(
        ("side_px", "least_px", "expected_px"),
        [(400, 134, 400), (400, 133, 200), (400, 67, 200), (400, 66, 100), (400, 33, 50), (400, 3, 50)],
    )
    def test_decodes_at_one_and_a_half_times_the_requested_size(self, side_px, least_px, expected_px):
        jpeg = open_jpeg(encoded(landscape(801, 603), quality=90))
        assert jpeg is not None
        assert jpeg.crop(Box(101, 203, side_px, side_px), least_px).shape[:2] == (expected_px, expected_px)

    def test_the_shorter_side_counts(self):
        jpeg = open_jpeg(encoded(landscape(801, 603), quality=90))
        assert jpeg is not None and jpeg.crop(Box(0, 0, 800, 40), 100).shape == (40, 800, 3)


class TestLeftToOpenImage:
    @pytest.mark.parametrize("kind", ["png", "cmyk", "empty", "text", "heic", "header only"])
    def test_other_content(self, kind):
        data = {
            "png": encoded(landscape(8, 8), "PNG"),
            "cmyk": encoded(landscape(8, 8).convert("CMYK")),
            "empty": b"",
            "text": b"text",
            "heic": b"\0\0\0\x18ftypheic" + bytes(20),
            "header only": encoded(landscape(8, 8))[:40],
        }[kind]
        assert open_jpeg(data) is None

    def test_files_that_are_not_jpegs(self, tmp_path):
        (tmp_path / "link.jpg").symlink_to("nowhere")
        for path in (tmp_path, tmp_path / "missing.jpg", tmp_path / "link.jpg", "a\0b"):
            assert open_jpeg(path) is None

    def test_too_many_pixels(self):
        data = bytearray(encoded(landscape(8, 8)))
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
        assert MAX_PIXELS < 65535**2 and open_jpeg(bytes(data)) is None


class TestDamage:
    """Whatever happened to the file, the outcome is that of `open_image`: its pixels, or its reason to refuse."""

    @pytest.mark.parametrize("progressive", [False, True])
    def test_cut_off(self, progressive):
        data = encoded(landscape(160, 120), quality=90, progressive=progressive)
        refused = 0
        for length in range(0, len(data), len(data) // 97):
            box = Box(10, 5, 40, 30)  # far above the damage of most
            expected = outcome(lambda length=length, box=box: open_image(data[:length]).crop(box.corners))
            assert cropped(data[:length], box) == expected
            refused += isinstance(expected, str)
        assert refused > 90

    def test_trailing_bytes_are_not_damage(self):
        """libjpeg warns of them, which is enough to leave the image to `open_image`, and that takes it."""
        data, box = encoded(landscape(160, 120), quality=90), Box(0, 0, 160, 120)
        assert cropped(data[:-2] + b"\0\0" + data[-2:], box) == cropped(data, box) == landscape_bytes(data)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF data
    @pytest.mark.parametrize("seed", range(4))
    def test_changed_bytes(self, seed):
        generator = random.Random(seed)
        exif = Image.Exif()
        exif[0x0112] = 6
        image = landscape(64, 48)
        sources = [
            encoded(image, quality=90),
            encoded(image, progressive=True),
            encoded(image, exif=exif, comment=b"x"),
        ]
        kinds = set()
        for _ in range(300):
            data = bytearray(generator.choice(sources))
            header = data.index(b"\xff\xda")
            for _ in range(generator.choice([1, 1, 3])):
                data[generator.randrange(header if generator.random() < 0.7 else len(data))] = generator.randrange(256)
            box = Box(0, 0, 20, 10)
            expected = outcome(lambda data=data, box=box: open_image(bytes(data)).crop(box.corners))
            assert cropped(bytes(data), box) == expected
            kinds.add(type(expected))
        assert kinds == {str, bytes}
