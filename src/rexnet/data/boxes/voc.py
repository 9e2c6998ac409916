"""Reads data sets in the layout of Pascal VOC."""

import math
import os
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from rexnet.data.boxes.boxed_images import BoxedImage, BoxedImages, NamedBox, Side, upright_sizes_px
from rexnet.data.decode import image_files
from rexnet.text import printable

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_SIDES: dict[Side, tuple[str, ...]] = {"train": ("train.txt",), "val": ("val.txt", "test.txt")}


def is_voc(folder: Path) -> bool:
    return (folder / _ANNOTATIONS).is_dir() and (folder / _IMAGES).is_dir()


def read_voc(folder: Path, *, workers: int) -> BoxedImages:
    """Annotations/*.xml with JPEGImages/, divided as ImageSets/Main/train.txt and val.txt (or test.txt) say, where both
    are there.

    VOC counts pixels from 1 and includes both edges, so its (xmin, xmax) begins at xmin - 1 and is xmax - xmin + 1
    wide. Objects marked `difficult`, which VOC's own evaluation neither rewards nor expects, become boxes to ignore:
    COCO's only mark for that is the crowd, within which it also forgives several detections. A file without a usable
    size takes that of its picture. Raises ValueError where no object is found at all.
    """
    pictures = {Path(path).stem: path for path in image_files(folder / _IMAGES)}
    found = BoxedImages(classes=())
    names_by_side = _names_by_side(folder)
    _note_unlisted(folder, names_by_side, found.left_out)
    for side, names in names_by_side.items():
        images = [_read_image(folder, name, pictures, found.left_out) for name in names]
        found.sides[side] = _with_sizes([image for image in images if image], found.left_out, workers)
    classes = {box.name for images in found.sides.values() for image in images for box in image.boxes}
    if not classes:
        raise ValueError(f"{printable(folder / _ANNOTATIONS)} holds no objects that could be read")
    found.classes = tuple(sorted(classes))
    return found


def _names_by_side(folder: Path) -> dict[Side | None, list[str]]:
    lists: dict[Side | None, list[str]] = {}
    for side, file_names in _SIDES.items():
        file = next((folder / _LISTS / name for name in file_names if (folder / _LISTS / name).is_file()), None)
        if file is None:
            return {None: sorted(path.stem for path in (folder / _ANNOTATIONS).glob("*.xml"))}
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        lists[side] = list(dict.fromkeys(_listed_name(folder, line) for line in lines if line.strip()))
    return lists


def _listed_name(folder: Path, line: str) -> str:
    """Lists of one class have 1, 0 or -1 after the name; a name may have blanks itself."""
    whole, first = line.strip(), line.split()[0]
    return whole if Path(whole).name == whole and (folder / _ANNOTATIONS / f"{whole}.xml").is_file() else first


def _note_unlisted(folder: Path, names_by_side: dict[Side | None, list[str]], left_out: list[str]) -> None:
    there = {path.stem for path in (folder / _ANNOTATIONS).glob("*.xml")}
    unlisted = sorted(there.difference(*names_by_side.values()))
    if unlisted:
        left_out.append(
            f"{printable(folder / _ANNOTATIONS)}: the lists used for train and val lack {len(unlisted):,} of "
            f"{len(there):,} files, such as {printable(unlisted[0])}.xml"
        )


def _read_image(folder: Path, name: str, pictures: dict[str, str], left_out: list[str]) -> BoxedImage | None:
    file = folder / _ANNOTATIONS / f"{name}.xml"
    if Path(name).name != name or not file.is_file():
        left_out.append(f"{printable(file)}: there is no such file")
        return None
    if name not in pictures:
        left_out.append(f"{printable(file)}: {_IMAGES} holds no image of this name")
        return None
    try:
        root = _parse(file)
    except (ParseError, ValueError) as error:
        left_out.append(f"{printable(file)}: {error}")
        return None
    boxes = []
    for number, element in enumerate(root.findall("object"), start=1):
        box = _read_object(element)
        if isinstance(box, str):
            left_out.append(f"{printable(file)}: object {number} {box}")
        else:
            boxes.append(box)
    width, height = (_number(root.find(f"size/{what}")) for what in ("width", "height"))
    size = (int(width), int(height)) if width and height and min(width, height) >= 1 else (0, 0)
    return BoxedImage(pictures[name], os.path.basename(pictures[name]), *size, boxes)


def _parse(file: Path) -> Element:
    """Raises ValueError for declarations: they can make a short file huge, and VOC has none."""
    parser = XMLParser(target=_PlainTree())
    parser.feed(file.read_bytes())
    return parser.close()


class _PlainTree(TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which annotations have no use for")


def _read_object(element: Element) -> NamedBox | str:
    """The box, or why there is none."""
    name = (element.findtext("name") or "").strip()
    if not name:
        return "has no name"
    edges = [_number(element.find(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = edges
    if x0 is None or y0 is None or x1 is None or y1 is None:
        return f"({printable(name)}) has no bndbox with the numbers xmin, ymin, xmax and ymax"
    if x1 < x0 or y1 < y0:
        return f"({printable(name)}) has a bndbox without area, {x0:g} {y0:g} {x1:g} {y1:g}"
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return NamedBox(name, (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), ignored=difficult)


def _number(element: Element | None) -> float | None:
    try:
        value = float(element.text or "") if element is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _with_sizes(images: list[BoxedImage], left_out: list[str], workers: int) -> list[BoxedImage]:
    unknown = [image.path for image in images if not image.width_px]
    sizes = dict(zip(unknown, upright_sizes_px(unknown, workers=workers), strict=True))
    complete = []
    for image in images:
        size = sizes.get(image.path, (image.width_px, image.height_px))
        if isinstance(size, str):
            left_out.append(f"{printable(image.path)}: {size}")
        else:
            complete.append(image._replace(width_px=size[0], height_px=size[1]))
    return complete
