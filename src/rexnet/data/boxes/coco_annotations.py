"""Validation of the annotations of a COCO file: each is checked, and corrected or skipped if it is faulty. As in every
reader, an image with an unusable object is skipped, because the object would be learned as background."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rexnet.data.boxes.segments import BadSegmentError, check_segment
from rexnet.text import printable

WITH_IMAGE = "skipped with its image"
FINDINGS = {
    "malformed image": "skipped",
    "duplicate image id": "skipped",
    "duplicate file": "skipped, its boxes added to the first entry",
    "missing file": "skipped",
    "image with an unusable annotation": "skipped",
    "malformed annotation": WITH_IMAGE,
    "unknown image": "skipped",
    "unknown category": WITH_IMAGE,
    "malformed box": WITH_IMAGE,
    "not finite": WITH_IMAGE,
    "zero area": WITH_IMAGE,
    "outside": WITH_IMAGE,
    "malformed iscrowd": WITH_IMAGE,
    "annotation of a skipped image": WITH_IMAGE,
    "duplicate": "skipped",
    "clipped": "clipped to the image",
    "degenerate polygon": "the polygon skipped",
    "malformed mask": "the mask skipped",
    "no mask": "kept as a box",
}
"""Kinds of faults in a COCO annotation file, and how each is handled."""
LOST_IMAGES = ("malformed image", "image with an unusable annotation", "missing file")
"""Kinds for which the image is skipped."""

# A narrower box loses its area in float32 at the far edge of a large image.
LEAST_SIDE_PX = 0.01
# COCO's own boxes exceed the image by rounding errors; up to this they are neither reported nor changed.
ROUNDING_PX = 1.0
_LARGEST_ID = 2**63 - 1


class Finding(NamedTuple):
    """A fault of an image or annotation. `kind` is one of FINDINGS; `annotation` is its id, or its position in the file
    if it has none; None for an image."""

    kind: str
    image: str
    annotation: str | None
    text: str

    def __str__(self) -> str:
        annotation = f", annotation {self.annotation}" if self.annotation is not None else ""
        return f"{printable(self.image) or '(no image)'}{annotation}: {self.text}"


def count_findings(findings: Sequence[Finding]) -> dict[str, int]:
    """Count the findings by kind, in the order of FINDINGS."""
    counts = Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in FINDINGS if counts[kind]}


class ImageEntry(NamedTuple):
    """An image as the annotation file states it."""

    id: int
    file_name: str
    width_px: int
    height_px: int


class Annotation(NamedTuple):
    """A valid annotation. `name` is its id or position, for reports; `box` is x, y, width, height; `segment` is an
    outline as `Segments` takes it."""

    image: int
    id: int
    name: str
    label: int
    iscrowd: bool
    box: list[float]
    area: float
    segment: Any
    segment_was_refused: bool


class FaultError(ValueError):
    """An annotation that cannot be used; `kind` is one of FINDINGS."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind, self.text = kind, text


def read_annotations(
    entries: Sequence[Any],
    images: Sequence[ImageEntry],
    *,
    row_of_id: Mapping[int, int],
    category_ids: Sequence[int],
    findings: list[Finding],
) -> Iterator[Annotation]:
    """Yield the valid annotations of `entries`, in their order; faults are appended to `findings`. `row_of_id`: image
    id -> position in `images`; labels are 1 + the position in `category_ids`."""
    label_of_id = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    seen: dict[tuple[float, ...], list[Any]] = {}
    for place, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        number = whole_number(fields.get("id"))
        name = f"at position {place}" if number is None else str(number)
        image_id, file_name = fields.get("image_id"), ""
        try:
            if entry is not fields:
                raise FaultError("malformed annotation", f"it is {entry!r:.40}, not an object")
            row = _look_up(row_of_id, _as_id(image_id), key="image_id", owner="image in use")
            file_name = images[row].file_name
            if isinstance(image_id, str):
                raise FaultError("malformed annotation", f"its image_id is the text {image_id!r}, not a number")
            label = _look_up(label_of_id, fields.get("category_id"), key="category_id", owner="category")
            box, clipped = check_box(fields.get("bbox"), images[row].width_px, images[row].height_px)
            iscrowd = _check_iscrowd(fields.get("iscrowd"))
            outline, earlier = fields.get("segmentation"), seen.setdefault((row, label, *box), [])
            if any(not outline or not other or outline == other for other in earlier):
                raise FaultError("duplicate", f"an earlier annotation has its category and its box {fields['bbox']}")
            earlier.append(outline)
        except FaultError as fault:
            findings.append(Finding(fault.kind, file_name, name, fault.text))
            continue
        if clipped:
            text = f"its box {fields['bbox']} extends beyond {images[row].width_px} x {images[row].height_px} px"
            findings.append(Finding("clipped", file_name, name, text))
        segment, refused = _check_outline(fields.get("segmentation"), images[row])
        findings += [Finding(kind, file_name, name, text) for kind, text in refused]
        yield Annotation(
            image=row,
            id=-1 if number is None else number,
            name=name,
            label=label,
            iscrowd=iscrowd,
            box=box,
            area=_check_area(fields.get("area"), box),
            segment=segment,
            segment_was_refused=bool(refused),
        )


def _look_up(known: Mapping[int, int], value: Any, *, key: str, owner: str) -> int:
    """Return the value for an id. Raise FaultError."""
    number = whole_number(value)
    if number is None or number not in known:
        raise FaultError(f"unknown {key.removesuffix('_id')}", f"its {key} is {value!r:.40}, which no {owner} has")
    return known[number]


def check_box(value: Any, image_width_px: int, image_height_px: int) -> tuple[list[float], bool]:
    """Return x, y, width, height, and whether they had to be clipped to the image. Raise FaultError."""
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(_is_number, value)):
        raise FaultError("malformed box", f"its bbox is {value!r:.60}, not four numbers")
    x, y, width, height = box = [_as_float(number) for number in value]
    if not all(map(math.isfinite, box)):
        raise FaultError("not finite", f"its box is {value!r:.60}")
    if min(width, height) < LEAST_SIDE_PX:
        raise FaultError("zero area", f"its box is {value!r:.60}, width {width:g} and height {height:g}")
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, image_width_px), min(y + height, image_height_px)
    if min(x1 - x0, y1 - y0) < LEAST_SIDE_PX:
        text = f"its box {value!r:.60} lies outside the {image_width_px} x {image_height_px} px"
        raise FaultError("outside", text)
    overshoot_px = max(-x, -y, x + width - image_width_px, y + height - image_height_px)
    if overshoot_px > ROUNDING_PX:
        return [x0, y0, x1 - x0, y1 - y0], True
    return box, False


def _check_iscrowd(value: Any) -> bool:
    if value is None or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise FaultError("malformed iscrowd", f"its iscrowd is {value!r:.40}; allowed: 0, 1, false and true")


def _check_outline(value: Any, image: ImageEntry) -> tuple[Any, list[tuple[str, str]]]:
    """Return the outline as `Segments` takes it, and (kind, text) of each rejected part."""
    try:
        segment, refused = check_segment(value, image.height_px, image.width_px)
    except BadSegmentError as error:
        return None, [("malformed mask", str(error))]
    return segment, [("degenerate polygon", text) for text in refused]


def _check_area(value: Any, box: list[float]) -> float:
    area = _as_float(value) if _is_number(value) else math.nan
    return area if math.isfinite(area) and area > 0 else box[2] * box[3]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_id(value: Any) -> Any:
    """Return the number in an id that is written as text, so that a message can name the image; other values
    unchanged."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


def whole_number(value: Any) -> int | None:
    """Return the whole number; None for anything else and for numbers beyond 64 bits."""
    if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
        return None
    return int(value) if abs(value) <= _LARGEST_ID else None
