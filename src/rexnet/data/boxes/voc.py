"""Reader of data in the layout of Pascal VOC."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from rexnet.data.boxes.boxed_images import SPLIT_FOLDERS, BoxedImages, NamedBox, Size, Skipped, Split
from rexnet.data.boxes.named_files import NamedFiles
from rexnet.data.image_files import all_images, is_hidden
from rexnet.files import read_text
from rexnet.text import normal_name, printable

_LISTS = "ImageSets/Main"
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
NEEDED = "Annotations/ with JPEGImages/, annotations/ with images/, or XML files beside the images"


class _Places(NamedTuple):
    """The folders of the XML files and of the images; the same one if they lie beside each other."""

    annotations: Path
    images: Path

    @property
    def beside(self) -> bool:
        return self.annotations == self.images


def is_voc(folder: Path) -> bool:
    return _find_places(folder) is not None


def _find_places(folder: Path) -> _Places | None:
    usual = _Places(folder / "Annotations", folder / "JPEGImages")
    if usual.annotations.is_dir() and usual.images.is_dir():
        return usual
    for name in ("annotations", "Annotations"):
        if (folder / "images").is_dir() and any(map(_is_annotation, _xml_files(folder / name))):
            return _Places(folder / name, folder / "images")
    beside = chain.from_iterable(_xml_files(folder / place) for place in ("", *SPLIT_FOLDERS["train"]))
    return _Places(folder, folder) if any(map(_is_annotation, beside)) else None


def _xml_files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.glob("*.[xX][mM][lL]") if not is_hidden(file.name))


def _is_annotation(file: Path) -> bool:
    try:
        return _parse(file) is not None
    except (OSError, ParseError, ValueError):
        return False


def read_voc(folder: Path, *, workers: int) -> BoxedImages:
    """Read the XML files of Annotations/ and the images of JPEGImages/, or annotations/ and images/, or both from the
    folder itself, in which they lie beside each other.

    Splits are what ImageSets/Main/train.txt, val.txt and test.txt say; without train.txt and val.txt, trainval.txt is
    used. Both folders may have the same sub-folders, as CVAT writes them. Files beside each other are split by their
    folders train/, valid/ and test/, as Roboflow writes them. VOC counts pixels from 1 and includes both edges, so a
    box (xmin, xmax) begins at xmin - 1 and is xmax - xmin + 1 wide. Objects marked `difficult`, which VOC's own
    evaluation neither rewards nor expects, become ignored boxes: COCO can only mark them as crowds, within which
    several detections are tolerated. A file without a usable size is read with the size of its image. Raise ValueError
    if no object is found at all, and for lists without train.txt.
    """
    places = _find_places(folder)
    if places is None:
        raise ValueError(f"{printable(folder)} lacks {NEEDED}, which VOC's layout needs")
    found = BoxedImages()
    files = NamedFiles(places.annotations, named_by=f"{printable(folder / _LISTS)} names")
    there = (path.relative_to(places.annotations) for path in places.annotations.rglob("*"))
    shown = (path for path in there if not any(map(is_hidden, path.parts)))
    annotated = sorted({path.with_suffix("").as_posix() for path in shown if path.suffix.lower() == ".xml"})
    images, ambiguous = _images_by_name(places.images, annotated)
    by_list = _names_by_split(folder, files)
    by_folder = {} if by_list else _names_by_folder(annotated)
    by_split = by_list or by_folder or {None: annotated}
    labels = VocLabels()
    for split, names in by_split.items():
        paths = []
        for name in found.once(split, names):
            file = _find_xml(files, name)
            image = images.get(name) or images.get(normal_name(name))
            path = places.annotations / (file or f"{name}.xml")
            if file is None:
                found.skipped.append(Skipped(str(path), 0, "the file does not exist"))
            elif image is None or name in ambiguous:
                reason = ambiguous.get(name, f"{printable(places.images)} contains no image of this name")
                found.skipped.append(Skipped(str(path), _count_objects(path), reason))
            elif labels.file_of.setdefault(image, path) != path:
                reason = f"its image already belongs to {printable(labels.file_of[image])}"
                found.skipped.append(Skipped(str(path), _count_objects(path), reason))
            else:
                paths.append(image)
        root = places.images / names[0].split("/")[0] if by_folder and places.beside else places.images
        found.read(split, paths, labels, root=root, workers=workers)
    if (folder / "SegmentationObject").is_dir():
        found.notes.append("the outlines in SegmentationObject are not read; objects have boxes only")
    owner = f"{printable(folder / _LISTS)} lacks" if by_list else "train/, valid/ and test/ lack"
    _note_unused(found, owner, listed=chain(*by_split.values()), annotated=annotated, images=images)
    _finish(found, printable(places.annotations))
    return found


def _finish(found: BoxedImages, annotations: str) -> None:
    """Collect the class names and settle the splits. Raise ValueError for data without usable boxes."""
    boxes = [box for images in found.splits.values() for image in images for box in image.boxes]
    if not boxes:
        reasons = "".join(f"; {skipped}" for skipped in found.skipped[:1])
        raise ValueError(f"{annotations} contains no objects that can be read{reasons}")
    if max(max(x + width, y + height) for x, y, width, height in (box.box for box in boxes)) <= 1:
        text = "has boxes within 0 to 1 only; VOC's boxes are in pixels, not fractions of the image"
        raise ValueError(f"{annotations} {text}")
    found.classes = tuple(sorted({box.name for box in boxes}))
    found.stand_in_for_val()


def _images_by_name(folder: Path, annotated: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the images by path without extension, and those that no file of `annotated` has by name alone, as written
    and in Unicode normal form, and the reason to reject each ambiguous name."""
    images: dict[str, str] = {}
    ambiguous: dict[str, str] = {}
    places = {path: Path(path).relative_to(folder).with_suffix("") for path in all_images(folder)}
    whole = set(map(normal_name, annotated))
    unclaimed = {path: place for path, place in places.items() if normal_name(place.as_posix()) not in whole}
    for name_of, found in ((Path.as_posix, places), (os.path.basename, unclaimed)):
        exact = set(images)
        for path, place in found.items():
            for name in {name_of(place), normal_name(name_of(place))} - exact:
                if images.setdefault(name, path) != path:
                    other = printable(images[name])
                    ambiguous[name] = f"{folder.name} contains {other} and {printable(path)}; it could mean either"
    return images, ambiguous


def _note_unused(
    found: BoxedImages, owner: str, *, listed: Iterable[str], annotated: Sequence[str], images: Mapping[str, str]
) -> None:
    """Note annotation files that no split has, and images without an annotation file."""
    names = set(map(normal_name, listed))
    if unlisted := [name for name in annotated if normal_name(name) not in names]:
        found.notes.append(
            f"{owner} {len(unlisted):,} of {len(annotated):,} .xml files, such as {printable(unlisted[0])}.xml"
        )
    names.update(map(normal_name, annotated))
    if unused := sorted(set(images.values()) - {images[name] for name in names & images.keys()}):
        subject = "image has" if len(unused) == 1 else "images have"
        found.notes.append(
            f"{len(unused):,} {subject} no .xml file and will not be used, such as {printable(unused[0])}"
        )


def _names_by_split(folder: Path, files: NamedFiles) -> dict[Split | None, list[str]]:
    """Return the names in each list; empty if there are no lists."""
    lists: dict[Split | None, Path] = {
        split: file for split in _SPLITS if (file := folder / _LISTS / f"{split}.txt").is_file()
    }
    both = folder / _LISTS / "trainval.txt"
    if both.is_file() and "train" not in lists and "val" not in lists:
        lists["train" if lists else None] = both
    elsewhere = () if lists else (folder / "ImageSets").rglob("*.txt")
    if others := [file for file in sorted(elsewhere) if file.stem in (*_SPLITS, "trainval")]:
        raise ValueError(
            f"{printable(folder)} has the list {printable(others[0])}, but none in {_LISTS}; move it there"
        )
    if lists and not {"train", None}.intersection(lists):
        have = ", ".join(file.name for file in lists.values())
        raise ValueError(f"{printable(folder / _LISTS)} has {have}, but no train.txt; add it, or remove the lists")
    return {split: _listed_names(file, files) for split, file in lists.items()}


def _names_by_folder(names: Sequence[str]) -> dict[Split | None, list[str]]:
    """Return the names in the folders of the splits; empty without a folder train/."""
    found: dict[Split | None, list[str]] = {}
    for split, folders in SPLIT_FOLDERS.items():
        by_folder = {each: [name for name in names if name.startswith(f"{each}/")] for each in folders}
        filled = [each for each in folders if by_folder[each]]
        if len(filled) > 1:
            raise ValueError(f"the .xml files of {split} are in {' and '.join(filled)}; keep one")
        if filled:
            found[split] = by_folder[filled[0]]
    return found if "train" in found else {}


def _listed_names(file: Path, files: NamedFiles) -> list[str]:
    """Return the names in a list. Lists for one class have 1, 0 or -1 after each name; a name may contain spaces."""
    lines = [line.strip() for line in read_text(file, errors="surrogateescape").split("\n") if line.strip()]
    whole = {line for line in lines if _find_xml(files, line)}
    return [line if line in whole else line.split()[0] for line in lines]


def _find_xml(files: NamedFiles, name: str) -> str | None:
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        return None
    return files.find(f"{name}.xml") or files.find(f"{name}.XML")


@dataclass(frozen=True)
class VocLabels:
    """Reader of the XML files that belong to images."""

    file_of: dict[str, Path] = field(default_factory=dict)

    def read(self, image: str, upright_px: Size, stored_px: Size) -> tuple[Size, list[NamedBox]]:
        file = self.file_of[image]
        try:
            root = _parse(file)
            boxes = [_read_object(number, each) for number, each in enumerate(root.iterfind("object"), start=1)]
        except (ParseError, ValueError) as error:
            raise ValueError(f"{printable(file)}: {error}") from error
        width, height = (_number(root.find(f"size/{name}")) for name in ("width", "height"))
        stated = (int(width), int(height)) if width and height and min(width, height) >= 1 else upright_px
        if stated not in (upright_px, stored_px):
            has = f"the image has {upright_px[0]} x {upright_px[1]}"
            raise ValueError(f"{printable(file)} states {stated[0]} x {stated[1]} px, but {has}")
        return stated, boxes

    def count(self, image: str) -> int:
        return _count_objects(self.file_of[image])


def _count_objects(file: Path) -> int:
    try:
        return len(_parse(file).findall("object"))
    except OSError:
        return 0
    except (ParseError, ValueError):
        return file.read_bytes().count(b"<object>")


def _parse(file: Path) -> Element:
    """Parse a file. Raise ValueError for a DOCTYPE: its entities can expand a short file enormously, and VOC has
    none."""
    parser = XMLParser(target=_PlainTree())
    parser.feed(file.read_bytes())
    root = parser.close()
    if root.tag != "annotation":
        raise ValueError(f"it is <{root.tag:.60}>; allowed: <annotation>")
    return root


class _PlainTree(TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which is not allowed")


def _read_object(number: int, element: Element) -> NamedBox:
    name = normal_name((element.findtext("name") or "").strip())
    if not name:
        raise ValueError(f"object {number} has no name")
    edges = [_number(element.find(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = edges
    if x0 is None or y0 is None or x1 is None or y1 is None:
        raise ValueError(
            f"object {number} ({printable(name)}) has no bndbox with the numbers xmin, ymin, xmax and ymax"
        )
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f"object {number} ({printable(name)}) has a bndbox without an area, {x0:g} {y0:g} {x1:g} {y1:g}"
        )
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"object {number} ({printable(name)}) has difficult {difficult!r:.40}; allowed: 0, 1")
    return NamedBox(name, (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), ignored=difficult == "1")


def _number(element: Element | None) -> float | None:
    try:
        value = float(element.text or "") if element is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
