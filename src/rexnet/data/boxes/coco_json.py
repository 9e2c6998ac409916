"""Read COCO annotation files into flat arrays. Faulty entries are skipped or corrected, and each is listed."""

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rexnet.data.boxes.coco_annotations import (
    FINDINGS,
    WITH_IMAGE,
    Annotation,
    Finding,
    ImageEntry,
    count_findings,
    read_annotations,
    whole_number,
)
from rexnet.data.boxes.named_files import NamedFiles, find_image_folder
from rexnet.data.boxes.segments import Segments
from rexnet.data.decode import MAX_PIXELS
from rexnet.data.image_set import FlatTexts
from rexnet.files import read_text
from rexnet.text import normal_name, printable, quantity

_IMAGES_TO_TRY = 20


@dataclass(frozen=True, kw_only=True)
class CocoContent:
    """K categories, I images and N annotations; those of image i are `first[i]` to `first[i + 1]`."""

    classes: tuple[str, ...]
    category_ids: np.ndarray  # int64 (K,), ascending
    image_folder: str
    image_ids: np.ndarray  # int64 (I,)
    names: FlatTexts  # (I,) below image_folder
    width_px: np.ndarray  # int32 (I,)
    height_px: np.ndarray  # int32 (I,)
    first: np.ndarray  # int64 (I + 1,)
    annotation_ids: np.ndarray  # int64 (N,), -1 if the file has none
    labels: np.ndarray  # int32 (N,), 1 to K
    iscrowd: np.ndarray  # uint8 (N,)
    boxes: np.ndarray  # float64 (N, 4), x y width height as in the file
    area: np.ndarray  # float64 (N,)
    segments: Segments  # (N,)

    @property
    def has_masks(self) -> bool:
        """Return whether any object that is not a crowd has an outline."""
        return bool((self.segments.present & (self.iscrowd == 0)).any())


def read_coco(annotation_file: str | Path, image_folder: str | Path | None = None) -> tuple[CocoContent, list[Finding]]:
    """Read an annotation file; if `image_folder` is None, the folder is searched for next to it, see
    `find_image_folder`. Raise ValueError for a file that is not a COCO annotation file, for duplicate category names
    or ids, for a file name that leads out of the image folder, and if no image can be used.
    """
    name, tables = printable(annotation_file), _read_tables(annotation_file)
    if image_folder is None:
        entries = (image for entry in tables["images"] if (image := _check_image(entry)))
        names = [image.file_name for image in islice(entries, _IMAGES_TO_TRY)]
        image_folder = find_image_folder(annotation_file, names) if names else os.path.dirname(annotation_file)
    elif not os.path.isdir(image_folder):
        raise ValueError(f"{printable(image_folder)} is not a folder; give the one with the images of {name}")
    return flatten(tables, name=name, image_folder=str(image_folder))


def flatten(tables: dict[str, list[Any]], *, name: str, image_folder: str) -> tuple[CocoContent, list[Finding]]:
    """Check the content of an annotation file, called `name` in messages, and store it in flat arrays. Raise
    ValueError like `read_coco`."""
    classes, category_ids = _read_categories(tables["categories"], name)
    findings: list[Finding] = []
    entries = _read_images(tables["images"], findings)
    images, row_of_id = _present_images(entries, image_folder, name, findings)
    rows = list(
        read_annotations(
            tables["annotations"], images, row_of_id=row_of_id, category_ids=category_ids, findings=findings
        )
    )
    _refuse_fractions(rows, images, name)
    images, rows = _whole_images(images, rows, findings)
    if not images:
        found = ", ".join(f"{count:,} {kind}" for kind, count in count_findings(findings).items())
        first = f"; the first: {findings[0]}" if findings else ""
        raise ValueError(f"none of the {len(tables['images']):,} images in {name} can be used: {found}{first}")
    content = CocoContent(
        classes=classes,
        category_ids=np.array(category_ids, dtype=np.int64),
        image_folder=image_folder,
        image_ids=np.array([image.id for image in images], dtype=np.int64),
        names=FlatTexts.pack(image.file_name for image in images),
        width_px=np.array([image.width_px for image in images], dtype=np.int32),
        height_px=np.array([image.height_px for image in images], dtype=np.int32),
        first=np.searchsorted([row.image for row in rows], np.arange(len(images) + 1)).astype(np.int64),
        annotation_ids=np.array([row.id for row in rows], dtype=np.int64),
        labels=np.array([row.label for row in rows], dtype=np.int32),
        iscrowd=np.array([row.iscrowd for row in rows], dtype=np.uint8),
        boxes=np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4),
        area=np.array([row.area for row in rows], dtype=np.float64),
        segments=Segments(row.segment for row in rows),
    )
    if content.has_masks:
        for row in rows:
            if row.segment is None and not row.segment_was_refused:
                findings.append(Finding("no mask", images[row.image].file_name, row.name, "it has no segmentation"))
    return content, findings


def _refuse_fractions(rows: list[Annotation], images: list[ImageEntry], name: str) -> None:
    """Raise ValueError if every box lies within the first pixel of its image."""
    farthest = max((max(row.box[0] + row.box[2], row.box[1] + row.box[3]) for row in rows), default=math.inf)
    if farthest <= 1 and any(min(image.width_px, image.height_px) > 1 for image in images):
        raise ValueError(
            f"{name} has boxes within 0 to 1 only, such as {list(rows[0].box)}; COCO's boxes are in pixels, not "
            "fractions of the image"
        )


def _whole_images(
    images: list[ImageEntry], rows: list[Annotation], findings: list[Finding]
) -> tuple[list[ImageEntry], list[Annotation]]:
    """Return the images all of whose annotations can be used, and their annotations in the order of the images."""
    faults = Counter(finding.image for finding in findings if FINDINGS[finding.kind] == WITH_IMAGE)
    kept = [place for place, image in enumerate(images) if image.file_name not in faults]
    of_image: dict[int, list[Annotation]] = {}
    for row in rows:
        of_image.setdefault(row.image, []).append(row)
    for place, image in enumerate(images):
        if count := faults[image.file_name]:
            others = of_image.get(place, [])
            total = quantity(count + len(others), "annotation")
            text = f"{count} of its {total} cannot be used and would be learned as background"
            findings.append(Finding("image with an unusable annotation", image.file_name, None, text))
            text = "its image is skipped"
            findings += [Finding("annotation of a skipped image", image.file_name, row.name, text) for row in others]
    ordered = [row._replace(image=new) for new, old in enumerate(kept) for row in of_image.get(old, [])]
    return [images[place] for place in kept], ordered


def _read_tables(annotation_file: str | Path) -> dict[str, list[Any]]:
    name = printable(annotation_file)
    try:
        text = read_text(annotation_file)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} contains a {type(content).__name__}; allowed: a JSON object")
    tables: dict[str, list[Any]] = {}
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{name} has no list {key!r}, which a COCO annotation file needs")
        tables[key] = content[key]
    return tables


def _read_categories(entries: list[Any], name: str) -> tuple[tuple[str, ...], list[int]]:
    found: dict[int, str] = {}
    for entry in entries:
        number, title = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        category_id = whole_number(number)
        if category_id is None or not isinstance(title, str) or not title.strip():
            raise ValueError(f"{name} has the category {entry!r:.80}; it needs an integer 'id' and a string 'name'")
        if category_id in found:
            raise ValueError(f"{name} has two categories with the id {category_id}: {found[category_id]!r}, {title!r}")
        found[category_id] = normal_name(title)
    twice = [title for title, count in Counter(found.values()).items() if count > 1]
    if twice:
        ids = [category_id for category_id, title in found.items() if title == twice[0]]
        raise ValueError(f"{name} has two categories named {twice[0]!r}, with the ids {ids[0]} and {ids[1]}")
    if not found:
        raise ValueError(f"{name} has no categories")
    return tuple(found[category_id] for category_id in sorted(found)), sorted(found)


def _read_images(entries: list[Any], findings: list[Finding]) -> list[ImageEntry]:
    """Return the valid image entries, without those that share an id with another file."""
    images: dict[int, ImageEntry] = {}
    unclear: set[int] = set()
    for place, entry in enumerate(entries):
        image = _check_image(entry)
        if image is None:
            text = f"entry {place} of 'images' is {entry!r:.80}; it needs a usable id, file_name, width and height"
            findings.append(Finding("malformed image", "", None, text))
            continue
        first = images.setdefault(image.id, image)
        if first is not image:
            text = f"its id {image.id} is also the id of {printable(first.file_name)}"
            findings.append(Finding("duplicate image id", image.file_name, None, text))
            if first != image:
                unclear.add(image.id)
    for image_id in sorted(unclear):
        text = f"its id {image_id} belongs to several files, so it is unclear which one the boxes belong to"
        findings.append(Finding("duplicate image id", images.pop(image_id).file_name, None, text))
    return list(images.values())


def _check_image(entry: Any) -> ImageEntry | None:
    fields = entry if isinstance(entry, dict) else {}
    file_name = fields.get("file_name")
    image_id, width_px, height_px = (whole_number(fields.get(key)) for key in ("id", "width", "height"))
    if not isinstance(file_name, str) or not _is_file_name(file_name):
        return None
    if image_id is None or width_px is None or height_px is None or min(width_px, height_px) < 1:
        return None
    return ImageEntry(image_id, file_name, width_px, height_px) if width_px * height_px <= MAX_PIXELS else None


def _is_file_name(name: str) -> bool:
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:  # a lone surrogate, which JSON can contain
        return False


def _present_images(
    entries: list[ImageEntry], image_folder: str, name: str, findings: list[Finding]
) -> tuple[list[ImageEntry], dict[int, int]]:
    """Return the images whose files exist, and the row of each image id."""
    files = NamedFiles(image_folder, named_by=f"{name} has an image with the file_name")
    images: list[ImageEntry] = []
    row_of_id: dict[int, int] = {}
    row_of_file: dict[str, int] = {}
    for image in entries:
        found = files.find(image.file_name)
        if found is None:
            findings.append(Finding("missing file", image.file_name, None, "there is no such file"))
            continue
        path, image = files.real_path(found), image._replace(file_name=found)
        if path in row_of_file:
            first = images[row_of_file[path]]
            text = f"image {image.id} has the same file as image {first.id}"
            findings.append(Finding("duplicate file", image.file_name, None, text))
            if (first.width_px, first.height_px) == (image.width_px, image.height_px):
                row_of_id[image.id] = row_of_file[path]
        elif not os.path.isfile(path):
            findings.append(Finding("missing file", image.file_name, None, "it is a folder"))
        else:
            row_of_file[path] = row_of_id[image.id] = len(images)
            images.append(image)
    return images, row_of_id
