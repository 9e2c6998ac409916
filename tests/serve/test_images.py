import asyncio
import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rexnet.data.decode import open_image
from rexnet.serve.http_errors import HTTPError
from rexnet.serve.images import Upload, open_upload, read_uploads
from tests.drawings import encoded, landscape

BOMB = """
import resource, sys, zlib, struct
from rexnet.serve.images import open_upload
from rexnet.serve.http_errors import HTTPError
open_upload(open(sys.argv[2], "rb").read(), max_pixels=50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
content = open(sys.argv[1], "rb").read()
try:
    open_upload(content, max_pixels=50_000_000)
except HTTPError as error:
    print(error.status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def bomb_png(side: int) -> bytes:
    """A whole PNG of side x side black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compress = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(compress.compress(row) for _ in range(side)) + compress.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb_webp() -> bytes:
    """A WebP that says it has 16,383 x 16,383 pixels."""
    content = bytearray(encoded(landscape(8, 8), "WEBP", lossless=True))
    place = content.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place, (bits >> 28 << 28) | 16382 << 14 | 16382)
    return bytes(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_of_browsers_are_decoded_by_open_image(format):
    content = encoded(landscape(31, 17), format)
    assert open_upload(content, max_pixels=1000).tobytes() == open_image(content).tobytes()


@pytest.mark.parametrize("format", ["TIFF", "BMP", "PPM", "AVIF", "ICO"])
def test_other_formats_are_refused_by_their_content(format):
    with pytest.raises(HTTPError) as caught:
        open_upload(encoded(landscape(32, 32), format), max_pixels=10_000)
    assert caught.value.status == 415


@pytest.mark.parametrize("content", [b"\xff\xd8\xff" + bytes(50), encoded(landscape(64, 64), "PNG")[:-200], b""])
def test_damaged_images_are_a_client_error(content):
    with pytest.raises(HTTPError) as caught:
        open_upload(content, max_pixels=10_000)
    assert caught.value.status == 400


def test_the_cap_is_on_pixels():
    content = encoded(landscape(20, 10), "PNG")
    assert open_upload(content, max_pixels=200).size == (20, 10)
    with pytest.raises(HTTPError, match="20 x 10") as caught:
        open_upload(content, max_pixels=199)
    assert caught.value.status == 413


@pytest.mark.seconds
@pytest.mark.parametrize(("made", "statuses"), [(lambda: bomb_png(30_000), {413}), (bomb_webp, {400, 413})])
def test_a_decompression_bomb_is_refused_without_using_memory(made, statuses, tmp_path):
    content = made()
    assert len(content) < 150_000
    (tmp_path / "bomb").write_bytes(content)
    (tmp_path / "good").write_bytes(encoded(landscape(9, 9), "WEBP"))
    found = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "bomb"), str(tmp_path / "good")],
        capture_output=True,
        text=True,
        check=True,
    )
    status, kib = map(int, found.stdout.split())
    assert status in statuses and kib < 8 * 1024


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    whole = encoded(landscape(64, 48), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    comment = b"\xff\xfe\x02\x02" + b"\xff\xda" * 256  # says nothing of scans
    behind = b"\xff\xda" * 300  # cameras put a film behind the image
    assert open_upload(whole[:2] + comment + whole[2:] + behind, max_pixels=10_000).size == (64, 48)
    monkeypatch.setattr("rexnet.serve.images.open_image", None)
    with pytest.raises(HTTPError, match="100 scans") as caught:
        open_upload(whole[:-2] + whole[last:-2] * 100 + whole[-2:], max_pixels=10_000)
    assert caught.value.status == 400


FORM = "multipart/form-data; boundary=xyz"


def form_body(*parts: tuple[str, str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    made = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, file, content in parts
    ]
    return b"".join(made) + end


def read(body: bytes, content_type: str = FORM, most: int = 4) -> list[Upload]:
    return asyncio.run(read_uploads(body, content_type, most=most))


def test_uploads_in_order():
    contents = [b"", b"\r\n--xy", bytes(range(256)) * 4000, b"\r\n\r\n"]
    uploads = read(form_body(*(("image", f"{i} ü.png", content) for i, content in enumerate(contents))))
    assert [upload.content for upload in uploads] == contents
    assert uploads[1].name == "1 ü.png"
    assert [upload.content for upload in read(form_body(("image", "a", b"x--xyz")) + b"epilogue --xyz\r\n")] == [
        b"x--xyz"
    ]


TEXT = b'--xyz\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (form_body(("image", "a", b"x")), "application/json", 415),
        (form_body(("image", "a", b"x")), "", 415),
        (form_body(("image", "a", b"x")), "multipart/form-data", 400),
        (form_body(("image", "a", b"x")), f"multipart/form-data; boundary={'x' * 300}", 400),
        (form_body(("image", "a", b"x")), "multipart/form-data; boundary=other", 400),
        (form_body(), FORM, 400),
        (b"", FORM, 400),
        (form_body(("image", "a", b"x"), end=b""), FORM, 400),
        (form_body(("image", "a", b"x"), ("image", "b", b"x"), end=b""), FORM, 400),
        (form_body(("photo", "a", b"x")), FORM, 400),
        (form_body(("image", "a", b"x"), ("photo", "a", b"x")), FORM, 400),
        (TEXT + form_body(("image", "a", b"x")), FORM, 400),
        (TEXT * 3 + form_body(("image", "a", b"x")), FORM, 400),
        (b"--xyz\r\n\r\nx\r\n--xyz--\r\n", FORM, 400),
        (form_body(*[("image", "a", b"x")] * 5), FORM, 413),
        (form_body(*[("image", "a", b"x")] * 500), FORM, 413),
        (b"--xyz\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--xyz--\r\n", FORM, 400),
        (b"--xyz\r\nA: " + b"b" * 9000 + b"\r\n\r\nx\r\n--xyz--\r\n", FORM, 400),
    ],
)
def test_forms_that_are_rejected(body, content_type, status):
    with pytest.raises(HTTPError) as caught:
        read(body, content_type)
    assert caught.value.status == status


@pytest.mark.seconds
@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([FORM, 'multipart/form-data; boundary="a b"', "multipart/form-data;;="])
)
def test_any_bytes_are_uploads_or_an_error(noise, content_type):
    bodies = (
        noise,
        b"--xyz\r\n" + noise,
        form_body(("image", "a", noise)),
        form_body(("image", "a", b"x"))[: len(noise)],
    )
    for body in bodies:
        try:
            assert read(body, content_type)
        except HTTPError as error:
            assert 400 <= error.status < 500


@pytest.mark.parametrize("noise", [b"\r", b"\r\n", b"\r\n--xy", b"x"])
def test_the_bytes_of_an_image_are_not_read_one_by_one_and_not_written_to_disk(noise, monkeypatch):
    content = noise * (2**21 // len(noise))
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    monkeypatch.setattr("tempfile.TemporaryFile", None)  # what a spooled file becomes on disk
    sys.setprofile(count)
    try:
        (upload,) = read(form_body(("image", "a", content)))
    finally:
        sys.setprofile(None)
    assert upload.content == content and calls < 10_000


def test_other_requests_are_answered_while_a_form_is_read():
    async def ask():
        task = asyncio.create_task(read_uploads(form_body(("image", "a", bytes(2**22))), FORM, most=1))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(ask()) > 10
