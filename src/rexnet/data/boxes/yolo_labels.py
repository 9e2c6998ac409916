"""Labels in YOLO's layout: a text file per image with a line per object."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from rexnet.data.boxes.boxed_images import BoxedImages, NamedBox, Size, Skipped
from rexnet.data.boxes.named_files import NamedFiles
from rexnet.data.image_files import all_images, is_hidden
from rexnet.files import read_text
from rexnet.text import normal_name, printable, quantity

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class YoloLabels:
    """Reader of label files. Each box is followed by `keypoint_numbers` values; None: there are no keypoints."""

    files: NamedFiles
    classes: tuple[str, ...]
    keypoint_numbers: int | None

    def file_of(self, image: str) -> str | None:
        name = _label_name(self.files.folder, image)
        name = self.files.find(name) or self.files.find(f"{name.removesuffix('.txt')}.TXT")
        return None if name is None else os.path.join(self.files.folder, name)

    def read(self, image: str, upright_px: Size, stored_px: Size) -> tuple[Size, list[NamedBox]]:
        file, boxes = self.file_of(image), []
        if file is None:
            return upright_px, boxes
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                try:
                    boxes.append(self._read_line(line.split(), upright_px))
                except ValueError as error:
                    raise ValueError(f"{printable(file)}, line {number}: {error}") from error
        return upright_px, boxes

    def count(self, image: str) -> int:
        file = self.file_of(image)
        return 0 if file is None else len(read_lines(file, errors="replace"))

    def _read_line(self, texts: list[str], size_px: Size) -> NamedBox:
        try:
            number, *values = map(float, texts)
        except ValueError as error:
            raise ValueError("it contains something that is not a number, or separators other than spaces") from error
        if not all(map(math.isfinite, (number, *values))):
            raise ValueError("it contains a number that is not finite")
        count = quantity(len(texts), "number")
        if self.keypoint_numbers is not None:
            if len(values) != 4 + self.keypoint_numbers:
                raise ValueError(f"it has {count}; kpt_shape requires {5 + self.keypoint_numbers}")
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(f"it has {count}; a box has 5, a polygon an odd number of 7 or more")
        if not number.is_integer() or not 0 <= number < len(self.classes):
            raise ValueError(f"its class is {number:g}; allowed: 0 to {len(self.classes) - 1}")
        if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
            raise ValueError("it has numbers outside 0 to 1; they must be fractions of the width and height")
        name, (width, height) = self.classes[int(number)], size_px
        if len(values) == 4:
            x, y, box_width, box_height = values
            if not (box_width > 0 and box_height > 0):
                raise ValueError(f"its box has no area, width {box_width:g} and height {box_height:g}")
            left, top = (x - box_width / 2) * width, (y - box_height / 2) * height
            return NamedBox(name, (left, top, box_width * width, box_height * height))
        xs, ys = [value * width for value in values[::2]], [value * height for value in values[1::2]]
        if min(max(xs) - min(xs), max(ys) - min(ys)) <= 0:
            raise ValueError("its polygon has no area")
        points = tuple(value for point in zip(xs, ys, strict=True) for value in point)
        return NamedBox(name, (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), polygon=points)


def name_the_rest(files: NamedFiles, used: set[str], found: BoxedImages) -> None:
    """List label files without an image, and count labelled images that are in no split."""
    images = all_images(files.folder)
    label_of = {image: normal_name(_label_name(files.folder, image)) for image in images}
    texts = {
        normal_name(os.path.relpath(file, files.folder)): str(file)
        for file in sorted(Path(files.folder).rglob("*.txt"))
        if not any(map(is_hidden, file.relative_to(files.folder).parts))
    }
    for name in sorted(texts.keys() - set(label_of.values())):
        lines = read_lines(texts[name], errors="replace")
        if lines and all(map(_is_number, lines[0].replace(",", " ").split())):
            found.skipped.append(Skipped(texts[name], len(lines), "these labels have no image"))
    if unused := [image for image in images if image not in used and label_of[image] in texts]:
        subject = "image with labels is" if len(unused) == 1 else "images with labels are"
        found.notes.append(f"{len(unused):,} {subject} in no split, such as {printable(unused[0])}")


def _label_name(folder: str, image: str) -> str:
    """Return the name of an image's label file, relative to the folder of labels."""
    parts = list(Path(image).relative_to(folder).parts)
    if places := [place for place, part in enumerate(parts[:-1]) if part == "images"]:
        parts[places[-1]] = "labels"
    return str(Path(*parts).with_suffix(".txt"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_lines(file: str | Path, *, errors: str = "strict") -> list[str]:
    return [line.strip() for line in read_text(file, errors=errors).split("\n") if line.strip()]
