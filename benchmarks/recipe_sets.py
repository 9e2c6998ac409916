"""Small image sets for the benchmarks of recipes: unpacked, cut and drawn once, always the same."""

import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rexnet.data.boxes.shapes import draw_shapes
from rexnet.data.datasets import open_dataset

FLOWERS = ("sunflower", "bluebell", "daisy", "pansy", "tigerlily")
_MOST_FLOWERS = 3
_SIDE_FRACTION = (0.2, 0.5)  # of the image's
_TRIES = 20


class Task(NamedTuple):
    """A set of class folders as all contenders see it; `data` is the name of `find_set`."""

    data: str
    image_px: int = 64
    shots: int | None = None
    width: float = 0.5
    """Of the network that is trained."""

    @property
    def stem_stride(self) -> int:
        return 1 if self.image_px <= 32 else 2

    def command(self, data: str) -> list[str]:
        """Return the arguments of `rexnet` that train on `data`, where this set is, from random weights."""
        network = ["--model", "rexnet", "--width", str(self.width), "--weights", "none"]
        # The recipe chooses stride 1 for sets of small images: another network than the rivals'.
        return [*self.any_network(data), *network, "--stem-stride", str(self.stem_stride)]

    def any_network(self, data: str) -> list[str]:
        """Return the arguments of `command` without those of the network."""
        shots = ["--shots", str(self.shots)] if self.shots else []
        return ["train", data, "--image-size", str(self.image_px), *shots]


def find_set(name: str, *, shared: Path, work: Path) -> str:
    """Return the DATA of a set, which is made in `work` from the archives in `shared` if it is not there."""
    work.mkdir(parents=True, exist_ok=True)

    def found(name: str) -> Path:
        return Path(find_set(name, shared=shared, work=work))

    makers: dict[str, Callable[[], Path]] = {
        "digits": lambda: Path("digits"),
        "cifar10": lambda: unpack(shared / "cifar10.tar.gz", work / "cifar10"),
        "cifar10-10000": lambda: link_first(found("cifar10"), work / "cifar10-10000", count=1000),
        "flowers17": lambda: unpack(shared / "flowers17.tar", work / "flowers17"),
        "coco": lambda: unpack(shared / "tiny_coco.tar", work / "coco"),
        "coco-crops": lambda: cut_crops(found("coco"), work / "coco-crops"),
        "shape-crops": lambda: cut_crops(
            draw(work / "shapes-240", images=240, size_px=128), work / "shape-crops", least_px=16
        ),
        "shapes-120": lambda: draw(work / "shapes-120", images=120, size_px=192),
        "shapes-300": lambda: draw(work / "shapes-300", images=300, size_px=192),
        "pasted-flowers": lambda: paste_flowers(
            found("flowers17"), found("coco"), work / "pasted-flowers", images=300, size_px=192
        ),
    }
    return str(makers[name]())


def unpack(archive: Path, folder: Path) -> Path:
    """Extract `archive` into `folder` unless that is done."""
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made, tarfile.open(archive) as tar:
            tar.extractall(Path(made, "data"), filter="data")
            Path(made, "data").rename(folder)
    return folder


def link_first(source: Path, folder: Path, *, count: int) -> Path:
    """Make a folder of the first `count` training images of each class, and all others."""
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            for place in sorted((source / "train").iterdir()):
                target = Path(made, "data", "train", place.name)
                target.mkdir(parents=True)
                for file in sorted(place.iterdir())[:count]:
                    (target / file.name).symlink_to(file.absolute())
            Path(made, "data", "test").symlink_to((source / "test").absolute())
            Path(made, "data").rename(folder)
    return folder


def draw(folder: Path, *, images: int, size_px: int) -> Path:
    """Draw shapes unless that is done."""
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            draw_shapes(Path(made, "data"), images=images, seed=0, size_px=size_px)
            Path(made, "data").rename(folder)
    return folder


def cut_crops(coco: Path, folder: Path, *, least_px: int = 24, least_images: int = 8) -> Path:
    """Make class folders of the objects in a COCO folder: crops of their boxes, of classes with enough of them."""
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        counts: dict[str, int] = {}
        sets = open_dataset(str(coco)).for_detection()
        for split, images in (("train", sets.train), ("val", sets.val)):
            content = images.to_coco()
            names = {row["id"]: row["name"] for row in content["categories"]}
            files = {row["id"]: images.name(index) for index, row in enumerate(content["images"])}
            for row in content["annotations"]:
                left, top, width, height = row["bbox"]
                name = names[row["category_id"]]
                if row.get("iscrowd") or min(width, height) < least_px:
                    continue
                place = Path(made, "data", split, name)
                place.mkdir(parents=True, exist_ok=True)
                counts[name] = counts.get(name, 0) + (split == "train")
                with Image.open(files[row["image_id"]]) as image:
                    box = (round(left), round(top), round(left + width), round(top + height))
                    image.convert("RGB").crop(box).save(place / f"{row['id']}.png")
        for split in ("train", "val"):
            for place in list(Path(made, "data", split).iterdir()):
                if counts.get(place.name, 0) < least_images or not Path(made, "data", "val", place.name).exists():
                    place.rename(Path(made, f"{split} {place.name}"))
        Path(made, "data").rename(folder)
    return folder


def paste_flowers(flowers: Path, coco: Path, folder: Path, *, images: int, size_px: int) -> Path:
    """Make a set in COCO's layout, with a quarter as many images to validate on: up to three ellipses cut from the
    middle of flowers17's photos, apart from each other, on plain noise and on photos of COCO in turn. No photo is in
    both splits."""
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        root = Path(made, "data")
        (root / "annotations").mkdir(parents=True)
        for number, (split, source, count) in enumerate((("train", "train", images), ("val", "test", images // 4))):
            random = np.random.default_rng([0, number])
            photos = sorted(Path(coco, f"{split}2017").glob("*.jpg"))
            content = _paste_split(root / split, random, flowers / source, photos, count=count, size_px=size_px)
            Path(root, "annotations", f"instances_{split}.json").write_text(json.dumps(content))
        root.rename(folder)
    return folder


def _paste_split(
    folder: Path, random: np.random.Generator, flowers: Path, photos: list[Path], *, count: int, size_px: int
) -> dict[str, Any]:
    folder.mkdir()
    files = {name: sorted((flowers / name).glob("*.jpg")) for name in FLOWERS}
    rows, annotations = [], []
    for number in range(1, count + 1):
        image = _photo(random, photos, size_px) if number % 2 else _noise(random, size_px)
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(random.integers(1, _MOST_FLOWERS + 1)):
            box = _free_box(random, boxes, size_px)
            if box is None:
                continue
            label = int(random.integers(len(FLOWERS)))
            chosen = files[FLOWERS[label]]
            _paste(image, chosen[random.integers(len(chosen))], box)
            boxes.append(box)
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
        image.save(folder / f"{number:06d}.png")
        rows.append({"id": number, "file_name": f"{number:06d}.png", "width": size_px, "height": size_px})
    categories = [{"id": label, "name": name} for label, name in enumerate(FLOWERS, start=1)]
    return {"images": rows, "annotations": annotations, "categories": categories}


def _photo(random: np.random.Generator, photos: list[Path], size_px: int) -> Image.Image:
    with Image.open(photos[random.integers(len(photos))]) as photo:
        side = int(min(photo.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(length - side + 1)) for length in photo.size)
        return photo.convert("RGB").resize((size_px, size_px), box=(left, top, left + side, top + side))


def _noise(random: np.random.Generator, size_px: int) -> Image.Image:
    pixels = random.integers(40, 216, 3) + random.normal(0, 12, (size_px, size_px, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _free_box(
    random: np.random.Generator, taken: list[tuple[int, int, int, int]], size_px: int
) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of a place that overlaps no other, or None if none was found."""
    low, high = _SIDE_FRACTION
    for _ in range(_TRIES):
        width, height = (int(size_px * random.uniform(low, high)) for _ in range(2))
        left, top = int(random.integers(size_px - width + 1)), int(random.integers(size_px - height + 1))
        right, bottom = left + width, top + height
        if all(right <= x0 or x1 <= left or bottom <= y0 or y1 <= top for x0, y0, x1, y1 in taken):
            return left, top, right, bottom
    return None


def _paste(image: Image.Image, file: Path, box: tuple[int, int, int, int]) -> None:
    """Paste an ellipse from the middle of a photo, of the shape of the box."""
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    with Image.open(file) as photo:
        scale = 0.7 * min(photo.width / size[0], photo.height / size[1])
        half_width, half_height = scale * size[0] / 2, scale * size[1] / 2
        x, y = photo.width / 2, photo.height / 2
        part = (x - half_width, y - half_height, x + half_width, y + half_height)
        cut = photo.convert("RGB").resize(size, box=part)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
    image.paste(cut, (left, top), mask)
