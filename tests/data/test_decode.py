import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from rexnet.data.decode import MAX_PIXELS, open_image, stored_size_px
from rexnet.errors import BadImageError
from rexnet.text import printable

ORIENTATION = 0x0112


def encode(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(source) -> np.ndarray:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray_rows(values) -> np.ndarray:
    """(H, W) -> (H, W, 3) as open_image gives gray images."""
    return np.repeat(np.asarray(values, dtype=np.uint8)[:, :, None], 3, axis=2)


def noise(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def blocks() -> Image.Image:
    """Three by two blocks of 16 pixels and one colour each: JPEG keeps them whichever way they are turned."""
    colours = np.array([[[250, 20, 30], [10, 240, 20], [20, 30, 250]], [[0, 0, 0], [128, 128, 0], [255, 255, 255]]])
    return Image.fromarray(np.kron(colours, np.ones((16, 16, 1))).astype(np.uint8))


def png(width: int, height: int, bits: int, colour_type: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any bit depth, which Pillow cannot write for 16-bit colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def upright_source(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores so that `orientation` turns it into `upright`."""
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return upright if inverse is None else upright.transpose(inverse)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("format", "options"),
        [
            ("JPEG", {"quality": 100, "subsampling": 0}),
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
        ],
    )
    def test_all_eight_give_the_same_pixels(self, format, options, orientation):
        upright = blocks()
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        got = pixels(encode(upright_source(upright, orientation), format, exif=exif, **options))
        expected = pixels(encode(upright, format, **options))
        assert got.shape == expected.shape
        # JPEG rounds colours, the same way in each turned block
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_allclose(got.astype(int), np.asarray(upright).astype(int), atol=3 if format == "JPEG" else 0)

    def test_applied_once_only(self):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        image = open_image(encode(blocks(), "JPEG", exif=exif))
        assert image.size == (32, 48)
        assert ImageOps.exif_transpose(image).size == (32, 48)
        assert not image.info and not dict(image.getexif())

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_meaningless_values_are_ignored(self, orientation):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        assert open_image(encode(blocks(), "JPEG", exif=exif)).size == (48, 32)

    def test_no_warning_of_damaged_exif_reaches_the_user(self, tmp_path):
        """Pillow warns of the tag whose text lies outside the file, and still finds the orientation before it."""
        tags = b"\2\0\x12\1\3\0\1\0\0\0\6\0\0\0\x0f\1\2\0\xff\xff\0\0\xff\xff\0\0"
        (tmp_path / "a.jpg").write_bytes(encode(blocks(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags))
        script = (
            "import sys\n"
            "from rexnet.data.decode import open_image\n"
            "from rexnet.data.jpeg import open_jpeg\n"
            "print(open_image(sys.argv[1]).size, open_jpeg(sys.argv[1]).size)"
        )
        command = [sys.executable, "-W", "always", "-c", script, str(tmp_path / "a.jpg")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "(32, 48) (32, 48)\n" and "PIL" not in done.stderr

    def test_damaged_exif_does_not_change_the_image(self):
        data = encode(blocks(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff")
        np.testing.assert_array_equal(pixels(data), np.asarray(blocks()))

    def test_16_bit_images_are_rotated_too(self):
        values = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        np.testing.assert_array_equal(
            pixels(encode(Image.fromarray(values), "PNG", exif=exif)), gray_rows(np.rot90(values >> 8, -1))
        )


class TestModes:
    ramp = np.linspace(0, 255, 24, dtype=np.uint8).reshape(4, 6)

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF"])
    def test_lossless_formats_keep_exact_colours(self, format):
        image = blocks()
        options = {"lossless": True} if format == "WEBP" else {}
        np.testing.assert_array_equal(pixels(encode(image, format, **options)), np.asarray(image))

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
    def test_gray(self, format):
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(self.ramp), format)), gray_rows(self.ramp))

    def test_ordinary_jpeg_is_what_pillow_decodes(self):
        data = encode(noise(61, 47), "JPEG")
        np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    def test_one_bit(self):
        bits = self.ramp > 100
        for format in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(pixels(encode(Image.fromarray(bits), format)), gray_rows(bits * 255))

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
    def test_transparency_is_composed_on_white(self, format):
        rgba = np.zeros((2, 3, 4), dtype=np.uint8)
        rgba[0] = (200, 40, 0, 255)
        rgba[1] = (200, 40, 0, 0)
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        got = pixels(encode(Image.fromarray(rgba), format, **options))
        assert got[0].tolist() == [[200, 40, 0]] * 3
        assert got[1].tolist() == [[255, 255, 255]] * 3

    def test_half_transparent_gray(self):
        image = Image.merge("LA", (Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 51)))
        assert np.unique(pixels(encode(image, "PNG"))).tolist() == [204]

    def test_palette_with_and_without_transparency(self):
        image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8)).convert("L")
        palette = image.copy()
        palette.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
        red, green, blue, white = [250, 0, 0], [0, 250, 0], [0, 0, 250], [255, 255, 255]
        assert pixels(encode(palette, "PNG")).tolist() == [[red, green], [blue, green]]
        assert pixels(encode(palette, "GIF", transparency=1)).tolist() == [[red, white], [blue, white]]
        assert pixels(encode(palette, "PNG", transparency=1)).tolist() == [[red, white], [blue, white]]
        alphas = bytes([255, 0, 51])
        assert pixels(encode(palette, "PNG", transparency=alphas)).tolist() == [[red, white], [[204, 204, 254], white]]

    def test_transparent_colour_of_gray_and_rgb(self):
        assert pixels(encode(Image.new("L", (1, 1), 7), "PNG", transparency=7)).tolist() == [[[255, 255, 255]]]
        assert pixels(encode(Image.new("L", (1, 1), 7), "PNG", transparency=8)).tolist() == [[[7, 7, 7]]]
        rgb = Image.new("RGB", (1, 1), (1, 2, 3))
        assert pixels(encode(rgb, "PNG", transparency=(1, 2, 3))).tolist() == [[[255, 255, 255]]]

    @pytest.mark.parametrize("format", ["JPEG", "TIFF"])
    def test_cmyk(self, format):
        image = blocks()
        got = pixels(encode(image.convert("CMYK"), format, **({"quality": 100} if format == "JPEG" else {})))
        np.testing.assert_allclose(got.astype(int), np.asarray(image).astype(int), atol=4)

    def test_first_frame_of_animations(self):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
        for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
            data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
            assert pixels(data)[0, 0].tolist() == [255, 0, 0], format

    def test_jpeg_with_a_second_image_inside(self):
        first, second = noise(), noise(seed=1)
        data = encode(first, "MPO", save_all=True, append_images=[second])
        np.testing.assert_array_equal(pixels(data), pixels(encode(first, "JPEG")))


class TestDeepSamples:
    values = np.array([[0, 255, 256, 4095], [32768, 65279, 65280, 65535]], dtype=np.uint16)

    def test_16_bit_is_scaled_not_clipped(self):
        for data in (encode(Image.fromarray(self.values), "PNG"), encode(Image.fromarray(self.values), "TIFF")):
            got = pixels(data)
            np.testing.assert_array_equal(got, gray_rows(self.values >> 8))
            assert np.abs(got[..., 0] - self.values / 257).max() < 1

    def test_gray_and_colour_of_16_bits_agree(self):
        big_endian = self.values.astype(">u2")
        gray = png(4, 2, 16, 0, [row.tobytes() for row in big_endian])
        colour = png(4, 2, 16, 2, [np.repeat(row, 3).tobytes() for row in big_endian])
        opaque = [np.stack([row, np.full(4, 65535)], axis=1).astype(">u2").tobytes() for row in big_endian]
        with_alpha = png(4, 2, 16, 4, opaque)
        np.testing.assert_array_equal(pixels(gray), pixels(colour))
        np.testing.assert_array_equal(pixels(gray), pixels(with_alpha))

    def test_16_bit_gray_equals_8_bit_gray(self):
        ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
        for deep in (ramp * 257, ramp * 256):
            np.testing.assert_array_equal(pixels(encode(Image.fromarray(deep), "PNG")), gray_rows(ramp))

    @pytest.mark.parametrize(("order", "white_is_zero"), [("<", False), (">", False), ("<", True)])
    def test_tiff_byte_orders_and_white_is_zero(self, order, white_is_zero):
        got = pixels(self.tiff(order, bits=16, photometric=0 if white_is_zero else 1))
        expected = self.values >> 8
        np.testing.assert_array_equal(got, gray_rows(255 - expected if white_is_zero else expected))

    def test_12_bit_tiff_uses_its_own_full_range(self):
        first, second = 0xFFF, 0x800
        packed = bytes([first >> 4, ((first & 15) << 4) | (second >> 8), second & 255])
        got = pixels(self.tiff("<", bits=12, photometric=1, size=(2, 1), data=packed))
        assert got[0, :, 0].tolist() == [255, 128]

    def tiff(self, order: str, *, bits: int, photometric: int, size=(4, 2), data: bytes | None = None) -> bytes:
        if data is None:
            data = self.values.astype(f"{order}u2").tobytes()
        tags = [(256, 4, size[0]), (257, 4, size[1]), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
        tags += [(273, 4, 8), (277, 3, 1), (278, 4, size[1]), (279, 4, len(data))]
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
        entries = b""
        for tag, kind, value in tags:
            field = struct.pack(f"{order}HH" if kind == 3 else f"{order}I", *((value, 0) if kind == 3 else (value,)))
            entries += struct.pack(f"{order}HHI", tag, kind, 1) + field
        return head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)

    def test_32_bit_integers(self):
        as_16_bit = Image.fromarray(self.values.astype(np.int32))
        np.testing.assert_array_equal(pixels(encode(as_16_bit, "TIFF")), gray_rows(self.values >> 8))
        wide = Image.fromarray(np.array([[-1000, 0, 1_000_000]], dtype=np.int32))
        assert pixels(encode(wide, "TIFF"))[0, :, 0].tolist() == [0, 0, 255]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.0, 100.0, 200.0], [0, 100, 200]),
            ([0.0, 32768.0, 65535.0], [0, 128, 255]),
            ([-1.0, 0.0, 3.0], [0, 64, 255]),
            ([0.0, 0.0, 0.0], [0, 0, 0]),
            ([-2.0, -2.0, -2.0], [0, 0, 0]),
            ([1e38, -1e38, 0.0], [255, 0, 128]),
        ],
    )
    def test_float_tiff(self, values, expected):
        image = Image.fromarray(np.array([values], dtype=np.float32))
        assert pixels(encode(image, "TIFF"))[0, :, 0].tolist() == expected

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_floats_that_are_not_finite(self, value):
        with pytest.raises(BadImageError, match="not finite"):
            open_image(encode(Image.fromarray(np.array([[0, value]], dtype=np.float32)), "TIFF"))

    def test_16_bit_pgm(self):
        data = b"P5 4 2 65535\n" + self.values.astype(">u2").tobytes()
        np.testing.assert_array_equal(pixels(data), gray_rows(self.values >> 8))


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"this is a text, not an image", "content is not"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "content is not"),
            (b"8BPS\0\1" + bytes(60), "content is not"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "content is not"),
            (b"\0\0\0\x18ftypheic" + bytes(60), "HEIC"),
            (b"\xff\xd8\xff", "damaged"),
            (b"\x89PNG\r\n\x1a\n", "damaged"),
            (b"P5 0 4 255\n", "damaged"),
        ],
    )
    def test_files_that_are_not_images(self, tmp_path, content, reason):
        path = tmp_path / "x.jpg"
        path.write_bytes(content)
        for source in (path, str(path), content, io.BytesIO(content)):
            with pytest.raises(BadImageError, match=reason) as caught:
                open_image(source)
            assert "\n" not in str(caught.value)
        with pytest.raises(BadImageError, match=reason):
            stored_size_px(path)

    def test_paths_that_are_not_files(self, tmp_path):
        (tmp_path / "x.jpg").mkdir()
        (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
        (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
        for name, reason in (
            ("x.jpg", "it is a folder"),
            ("link.jpg", "link to a file that does not exist"),
            ("missing.jpg", "no such file"),
            ("loop.jpg", "symbolic links"),
            ("null\0byte.jpg", "null byte"),
            ("x" * 300 + ".jpg", "too long"),
        ):
            with pytest.raises(BadImageError, match=reason) as caught:
                open_image(tmp_path / name)
            assert printable(tmp_path / name) in str(caught.value)
            assert caught.value.path == str(tmp_path / name)

    @pytest.mark.parametrize(
        ("format", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("GIF", {}),
            ("WEBP", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("BMP", {}),
            ("PPM", {}),
        ],
    )
    def test_truncated_anywhere(self, format, options):
        data = encode(noise(80, 60), format, **options)
        whole = pixels(data)
        for length in sorted({*range(1, 60), *np.linspace(60, len(data) - 1, 60, dtype=int).tolist()}):
            try:
                np.testing.assert_array_equal(pixels(data[:length]), whole)  # only a trailer was cut
            except BadImageError:
                continue
            assert length > len(data) - 16

    def test_damage_never_raises_anything_else(self):
        chance = random.Random(0)
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF"):
            good = encode(noise(40, 30), format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}))
            for _ in range(60):
                data = bytearray(good)
                for _ in range(chance.choice((1, 4, 20))):
                    data[chance.randrange(min(len(data), chance.choice((40, 300, 10**6))))] = chance.randrange(256)
                try:
                    assert open_image(bytes(data), max_pixels=10**6).mode == "RGB"
                except BadImageError as error:
                    assert "\n" not in str(error)

    def test_random_bytes_behind_each_signature(self):
        chance = random.Random(1)
        heads = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"P6 9 9 255\n"]
        for head in heads:
            for _ in range(40):
                with pytest.raises(BadImageError):
                    open_image(head + chance.randbytes(chance.randrange(200)))


def bomb_headers() -> dict[str, bytes]:
    side = 60_000
    jpeg = bytearray(encode(noise(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", side, side)
    gif = bytearray(encode(noise(), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = bytearray(encode(noise(), "BMP"))
    bmp[18:26] = struct.pack("<II", side, side)
    canvas = (16383).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 1000) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(900)
    tiff = TiffImagePlugin.ImageFileDirectory_v2()
    tiff[256], tiff[257] = 24, 16
    tiff_bytes = bytearray(encode(noise(), "TIFF", tiffinfo=tiff))
    for tag in (256, 257):
        at = tiff_bytes.index(struct.pack("<HHI", tag, 4, 1)) + 8
        tiff_bytes[at : at + 4] = struct.pack("<I", side)
    return {
        "png": png(side, side, 8, 2, [bytes(300)]),
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "ppm": b"P6 60000 60000 255\n" + bytes(300),
        "webp": webp,
        "tiff": bytes(tiff_bytes),
    }


class TestPixelLimit:
    @pytest.mark.parametrize("format", list(bomb_headers()))
    def test_oversized_images_are_refused_from_the_header(self, format):
        data = bomb_headers()[format]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(BadImageError, match=r"pixels|size|could not create decoder"):
            open_image(data)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kib < 64 * 1024

    def test_a_real_bomb(self):
        width, height = 12_000, 12_000
        packed = png(width, height, 1, 0, [bytes(width // 8)] * height)
        assert len(packed) < 100_000
        with pytest.raises(BadImageError, match=r"12,000 x 12,000 pixels, more than the 128,000,000 allowed"):
            open_image(packed)

    def test_the_limit_is_exact(self):
        data = encode(Image.new("RGB", (10, 7)), "PNG")
        assert open_image(data, max_pixels=70).size == (10, 7)
        with pytest.raises(BadImageError, match="69 allowed"):
            open_image(data, max_pixels=69)

    def test_big_but_allowed_passes_without_a_warning(self, tmp_path):
        """Pillow itself would warn above 89 million pixels; warnings are errors here."""
        path = tmp_path / "phone.png"
        path.write_bytes(png(12_000, 9_000, 1, 0, []))
        assert stored_size_px(path) == (12_000, 9_000)
        assert MAX_PIXELS >= 12_000 * 9_000


class TestSources:
    def test_every_kind_of_source(self, tmp_path):
        data = encode(noise(), "PNG")
        path = tmp_path / "no extension"
        path.write_bytes(data)
        expected = np.asarray(noise())
        with open(path, "rb") as stream:
            for source in (data, path, str(path), io.BytesIO(data), stream):
                np.testing.assert_array_equal(pixels(source), expected)

    def test_the_error_survives_pickling(self):
        error = pickle.loads(pickle.dumps(BadImageError("a\nb.jpg", "the file is empty")))
        assert isinstance(error, BadImageError) and error.path == "a\nb.jpg" and error.reason == "the file is empty"
        assert str(error) == "a\\nb.jpg cannot be used as an image: the file is empty"

    def test_the_error_is_one_line_for_any_name(self):
        name = os.fsdecode(b"caf\xc3\xa9 \xff\n.jpg")
        assert printable(name) == "café \\udcff\\n.jpg"
        printable(name).encode("utf-8")
