import errno
import os

import pytest

from rexnet.text import duration_text, normal_name, quantity, reason_of, some_names


@pytest.mark.parametrize(("number", "text"), [(0, "0 classes"), (1, "1 class"), (2000, "2,000 classes")])
def test_quantities(number, text):
    assert quantity(number, "class") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4, "4 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h 0 min"), (18_600, "5 h 10 min"), (3e5, "3 days 11 h")],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_the_reason_of_an_error_has_neither_number_nor_file():
    assert reason_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")) == os.strerror(errno.ENOSPC)
    assert reason_of(OSError("no number")) == "no number"
    assert reason_of(ValueError("not whole")) == "not whole"


def test_names_that_look_alike_are_equal_in_normal_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert composed != decomposed and normal_name(decomposed) == normal_name(composed) == composed
    assert normal_name("no text \udcff") == "no text \udcff"


@pytest.mark.parametrize(("encoding", "reason"), [("utf-16", "it is UTF-16"), ("latin-1", "it is not UTF-8 text")])
def test_the_reason_of_an_encoding_names_the_next_step(encoding, reason):
    with pytest.raises(UnicodeDecodeError) as raised:
        "names: [café]".encode(encoding).decode("utf-8")
    assert reason_of(raised.value) == f"{reason}; save it as UTF-8"


def test_spaces_around_names_are_visible():
    assert some_names(["cat", "cat ", "a b"]) == "cat, 'cat ', a b"
