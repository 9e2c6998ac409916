import pytest

from rexnet.card.public_text import escape, public_command, public_name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("digits", "digits"),
        ("data/flowers", "data/flowers"),
        ("/home/alice/flowers", "flowers"),
        ("~/flowers", "flowers"),
        ("../alice/flowers", "flowers"),
        ("https://alice:secret@host/set/{00..10}.tar?token=secret", "https://host/set/{00..10}.tar"),
        ("hf://owner/name@main", "hf://owner/name@main"),
    ],
)
def test_a_name_loses_what_is_private(name, shown):
    assert public_name(name) == shown


def test_a_command_loses_it_in_every_argument():
    command = "/venv/bin/rexnet train '/home/alice/my photos' --weights=/home/alice/best.pt --output ~/runs/1 --lr 0.1"
    assert public_command(command) == "rexnet train 'my photos' --weights=best.pt --output 1 --lr 0.1"
    assert public_command("/venv/rexnet/__main__.py train x") == "rexnet train x"
    assert public_command("rexnet train 'a\nb'") == r"rexnet train 'a\nb'"


def test_text_stays_text():
    assert escape("a_b_") == r"a_b\_" and escape("<x>\n| *y*") == r"\<x\>\\n\| \*y\*"
