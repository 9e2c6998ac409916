import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rexnet.serve.http_errors import HTTPError
from rexnet.serve.multipart import image_parts

KIND = "multipart/form-data; boundary=xyz"


def body(*parts: tuple[str, str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    made = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, file, content in parts
    ]
    return b"".join(made) + end


def test_parts_in_order():
    contents = [b"", b"\r\n--xy", bytes(range(256)) * 400, b"\r\n\r\n"]
    parts = image_parts(body(*(("image", f"{i} ü.png", one) for i, one in enumerate(contents))), KIND, most=4)
    assert [part.content for part in parts] == contents
    assert parts[1].file_name == "1 ü.png"


@pytest.mark.parametrize(
    ("sent", "kind", "status"),
    [
        (body(("image", "a", b"x")), "application/json", 415),
        (body(("image", "a", b"x")), "", 415),
        (body(("image", "a", b"x")), "multipart/form-data", 415),
        (body(("image", "a", b"x")), f"multipart/form-data; boundary={'x' * 300}", 415),
        (body(("image", "a", b"x")), "multipart/form-data; boundary=other", 400),
        (body(), KIND, 400),
        (b"", KIND, 400),
        (body(("image", "a", b"x"), end=b""), KIND, 400),
        (body(("picture", "a", b"x")), KIND, 400),
        (body(("image", "a", b"x"), ("picture", "a", b"x")), KIND, 400),
        (b"--xyz\r\n\r\nx\r\n--xyz--\r\n", KIND, 400),
        (body(*[("image", "a", b"x")] * 5), KIND, 413),
        (b"--xyz\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--xyz--\r\n", KIND, 400),
        (b"--xyz\r\nA: " + b"b" * 9000 + b"\r\n\r\nx\r\n--xyz--\r\n", KIND, 400),
    ],
)
def test_what_is_refused(sent, kind, status):
    with pytest.raises(HTTPError) as caught:
        image_parts(sent, kind, most=4)
    assert caught.value.status == status


@pytest.mark.seconds
@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([KIND, 'multipart/form-data; boundary="a b"', "multipart/form-data;;="])
)
def test_any_bytes_are_parts_or_a_refusal(noise, kind):
    for sent in (noise, b"--xyz\r\n" + noise, body(("image", "a", noise)), body(("image", "a", b"x"))[: len(noise)]):
        try:
            assert image_parts(sent, kind, most=4)
        except HTTPError as refusal:
            assert 400 <= refusal.status < 500


def test_what_surrounds_the_parts_and_a_boundary_with_blanks_behind_it():
    sent = b"preamble\r\n" + body(("image", "a", b"x--xyz in the middle"), end=b"--xyz \t\r\n")
    sent += b'content-disposition: form-data; name="image"\r\nX: y\r\n\r\n\r\n--xyz--\r\nepilogue --xyz\r\n'
    assert [part.content for part in image_parts(sent, KIND, most=2)] == [b"x--xyz in the middle", b""]


@pytest.mark.parametrize("noise", [b"\r", b"\r\n", b"\r\n--xy", b"x"])
def test_the_bytes_of_a_picture_are_not_looked_at_one_by_one(noise):
    content = noise * (2**21 // len(noise))
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        parts = image_parts(body(("image", "a", content)), KIND, most=1)
    finally:
        sys.setprofile(None)
    assert parts[0].content == content and calls < 1000
