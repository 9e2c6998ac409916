"""One annotation after the other: checked, mended, or left out and listed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rexnet.data.boxes.coco_findings import Finding
from rexnet.data.boxes.segments import BadSegmentError, checked_segment

# Below this a box has no area that float32 pixels could hold at the edge of a large picture.
LEAST_SIDE_PX = 0.01
# COCO's own boxes reach over the edge by a rounding or two; up to here nothing is said and nothing is changed.
ROUNDING_PX = 1.0
_LARGEST_ID = 2**63 - 1


class ImageEntry(NamedTuple):
    """An image as the annotation file states it."""

    id: int
    file_name: str
    width_px: int
    height_px: int


class Annotation(NamedTuple):
    """`called` is its name in reports; `box` is x, y, width, height; `segment` is what `Segments` takes."""

    image: int
    id: int
    called: str
    label: int
    iscrowd: bool
    box: list[float]
    area: float
    segment: Any
    segment_was_refused: bool


class _DirtyError(ValueError):
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
    """What is of use among `entries`, in their order; the rest goes to `findings`. `row_of_id`: image id -> position in
    `images`; labels are 1 + the position in `category_ids`."""
    label_of_id = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    seen: set[tuple[float, ...]] = set()
    for place, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        number = whole_number(fields.get("id"))
        called = f"at place {place}" if number is None else str(number)
        image_id, category_id = whole_number(fields.get("image_id")), whole_number(fields.get("category_id"))
        row = None if image_id is None else row_of_id.get(image_id)
        label = None if category_id is None else label_of_id.get(category_id)
        file_name = "" if row is None else images[row].file_name
        try:
            if entry is not fields:
                raise _DirtyError("malformed annotation", f"it is {entry!r:.40}, no object")
            if row is None:
                text = f"its image_id is {fields.get('image_id')!r:.40}, which no image in use has"
                raise _DirtyError("unknown image", text)
            if label is None:
                text = f"its category_id is {fields.get('category_id')!r:.40}, which no category has"
                raise _DirtyError("unknown category", text)
            box, clipped = _checked_box(fields.get("bbox"), images[row])
            if (row, label, *box) in seen:
                raise _DirtyError("duplicate", f"its category and its box {fields['bbox']} are there already")
        except _DirtyError as dirty:
            findings.append(Finding(dirty.kind, file_name, called, dirty.text))
            continue
        seen.add((row, label, *box))
        if clipped:
            text = f"its box {fields['bbox']} reaches out of {images[row].width_px} x {images[row].height_px} px"
            findings.append(Finding("clipped", file_name, called, text))
        segment, refused = _checked_outline(fields.get("segmentation"), images[row])
        findings += [Finding(kind, file_name, called, text) for kind, text in refused]
        yield Annotation(
            image=row,
            id=-1 if number is None else number,
            called=called,
            label=label,
            iscrowd=bool(fields.get("iscrowd")),
            box=box,
            area=_checked_area(fields.get("area"), box),
            segment=segment,
            segment_was_refused=bool(refused),
        )


def _checked_box(value: Any, image: ImageEntry) -> tuple[list[float], bool]:
    """x, y, width, height, and whether they had to be clipped. Raises _DirtyError."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise _DirtyError("malformed box", f"its bbox is {value!r:.60}, not four numbers")
    x, y, width, height = box = [_as_float(number) for number in value]
    if not all(map(math.isfinite, box)):
        raise _DirtyError("not finite", f"its box is {value!r:.60}")
    if min(width, height) < LEAST_SIDE_PX:
        raise _DirtyError("zero area", f"its box is {value!r:.60}, width {width:g} and height {height:g}")
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, image.width_px), min(y + height, image.height_px)
    if min(x1 - x0, y1 - y0) < LEAST_SIDE_PX:
        text = f"its box {value!r:.60} lies outside of the {image.width_px} x {image.height_px} px"
        raise _DirtyError("outside", text)
    overshoot_px = max(-x, -y, x + width - image.width_px, y + height - image.height_px)
    if overshoot_px > ROUNDING_PX:
        return [x0, y0, x1 - x0, y1 - y0], True
    return box, False


def _checked_outline(value: Any, image: ImageEntry) -> tuple[Any, list[tuple[str, str]]]:
    """What `Segments` takes, and (kind, text) of what was refused."""
    try:
        segment, refused = checked_segment(value, image.height_px, image.width_px)
    except BadSegmentError as error:
        return None, [("malformed mask", str(error))]
    return segment, [("degenerate polygon", text) for text in refused]


def _checked_area(value: Any, box: list[float]) -> float:
    area = _as_float(value) if _is_number(value) else math.nan
    return area if math.isfinite(area) and area > 0 else box[2] * box[3]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole_number(value: Any) -> int | None:
    """None for anything else, and for what does not fit into 64 bits."""
    if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
        return None
    return int(value) if abs(value) <= _LARGEST_ID else None
