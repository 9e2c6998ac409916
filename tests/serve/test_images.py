import struct
import subprocess
import sys
import zlib

import pytest

from rexnet.data.decode import open_image
from rexnet.serve.http_errors import HTTPError
from rexnet.serve.images import open_sent
from tests.drawings import encoded, landscape

BOMB = """
import resource, sys, zlib, struct
from rexnet.serve.images import open_sent
from rexnet.serve.http_errors import HTTPError
open_sent(open(sys.argv[2], "rb").read(), max_pixels=50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
content = open(sys.argv[1], "rb").read()
try:
    open_sent(content, max_pixels=50_000_000)
except HTTPError as refusal:
    print(refusal.status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
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
def test_what_browsers_show_is_read_as_everywhere(format):
    content = encoded(landscape(31, 17), format)
    assert open_sent(content, max_pixels=1000).tobytes() == open_image(content).tobytes()


@pytest.mark.parametrize("format", ["TIFF", "BMP", "PPM", "AVIF", "ICO"])
def test_other_formats_are_refused_by_their_content(format):
    with pytest.raises(HTTPError) as caught:
        open_sent(encoded(landscape(32, 32), format), max_pixels=10_000)
    assert caught.value.status == 415


@pytest.mark.parametrize("content", [b"\xff\xd8\xff" + bytes(50), encoded(landscape(64, 64), "PNG")[:-200], b""])
def test_damage_is_the_clients(content):
    with pytest.raises(HTTPError) as caught:
        open_sent(content, max_pixels=10_000)
    assert caught.value.status == 400


def test_the_cap_is_on_pixels():
    content = encoded(landscape(20, 10), "PNG")
    assert open_sent(content, max_pixels=200).size == (20, 10)
    with pytest.raises(HTTPError, match="20 x 10") as caught:
        open_sent(content, max_pixels=199)
    assert caught.value.status == 413


@pytest.mark.seconds
@pytest.mark.parametrize(("made", "statuses"), [(lambda: bomb_png(30_000), {413}), (bomb_webp, {400, 413})])
def test_a_bomb_is_refused_without_a_rise_in_memory(made, statuses, tmp_path):
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
    behind = b"\xff\xda" * 300  # cameras put a film behind the picture
    assert open_sent(whole[:2] + comment + whole[2:] + behind, max_pixels=10_000).size == (64, 48)
    monkeypatch.setattr("rexnet.serve.images.open_image", None)
    with pytest.raises(HTTPError, match="100 scans") as caught:
        open_sent(whole[:-2] + whole[last:-2] * 100 + whole[-2:], max_pixels=10_000)
    assert caught.value.status == 400
