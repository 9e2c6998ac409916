"""Tars as others write them, for tests of reading them."""

import io
import tarfile
from pathlib import Path

from tests.drawings import draw

LETTERS = ("a", "b")


def jpeg(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    draw("cat", number).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, members, **options) -> Path:
    """`members`: (name, bytes) or a TarInfo without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def foreign(
    root: Path, label=lambda number: ("cls", str(number % 2)), count: int = 6, classes=LETTERS, **options
) -> Path:
    for side in ("train", "val"):
        members = []
        for number in range(count):
            suffix, text = label(number)
            members += [(f"s{number}.jpg", jpeg(number)), (f"s{number}.{suffix}", text.encode())]
        write_tar(root / side / "0.tar", members, **options)
    if classes:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def names_of(images) -> list[str]:
    """What the images of a set are called, in order."""
    return [images.name(index) for index in range(len(images))]
