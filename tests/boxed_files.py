"""Small data sets in the layouts of Pascal VOC and YOLO."""

from pathlib import Path

import numpy as np
from PIL import Image

from rexnet.data.boxes.convert import ConvertConfig, convert_data


def convert(source, output, **options):
    return convert_data(ConvertConfig(data=str(source), output=str(output), **{"workers": 0, **options}))


def write_image(path: Path, width: int = 40, height: int = 30, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def voc_object(name="dog", box=(1, 1, 40, 30), difficult=0) -> str:
    edges = "".join(f"<{e}>{v}</{e}>" for e, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{edges}</bndbox></object>"


def voc_image(root: Path, name: str, *objects: str, size: str | None = None, head: str = "") -> None:
    write_image(root / "JPEGImages" / f"{name}.jpg")
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>" if size is None else size
    file = root / "Annotations" / f"{name}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f"{head}<annotation><filename>{name}.jpg</filename>{size}{''.join(objects)}</annotation>"
    file.write_text(text)


def voc_lists(root: Path, **sides: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for side, names in sides.items():
        (folder / f"{side}.txt").write_text(names)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
