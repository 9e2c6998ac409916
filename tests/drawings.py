"""Small images that a network can tell apart, for tests that need images of their own."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw(kind: str, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A small image of one of three shapes on noise: enough for a network to tell them apart."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    left, top = random.integers(2, 14, 2).tolist()
    box = (left, top, left + 24, top + 22)
    colour = tuple(random.integers(160, 255, 3).tolist())
    if kind == "cat":
        pen.ellipse(box, fill=colour)
    elif kind == "dog":
        pen.rectangle(box, outline=colour, width=3)
    else:
        pen.line((box[0], box[1], box[2], box[3]), fill=colour, width=4)
        pen.line((box[0], box[3], box[2], box[1]), fill=colour, width=4)
    return image


def draw_folder(root: Path, train: int = 12, val: int = 4, *, first_seed: int = 0) -> Path:
    """root/{train,val}/{cat,dog,fox}/N.jpg (N.png for odd N)."""
    for split, count in (("train", train), ("val", val)):
        for label, kind in enumerate(("cat", "dog", "fox")):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                seed = first_seed + 1000 * label + index + (500 if split == "val" else 0)
                draw(kind, seed).save(folder / f"{index}.{'png' if index % 2 else 'jpg'}")
    return root


def landscape(width: int, height: int) -> Image.Image:
    """A smooth image without symmetry, for which JPEG and resizing are at home."""
    y, x = np.mgrid[:height, :width]
    red = 128 + 100 * np.sin(x / 23 + y / 57)
    green = 255 * x / max(width - 1, 1)
    blue = 128 + 90 * np.cos(y / 17 - x / 91)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def odd_images() -> dict[str, bytes]:
    """Name -> content of a file: every EXIF orientation, several formats, colours, depths and shapes."""
    image = landscape(37, 23)
    turned = {f"turned {value}": encoded(image, "JPEG", exif=exif(value)) for value in range(1, 9)}
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    others = {
        "gray": encoded(image.convert("L"), "PNG"),
        "one bit": encoded(image.convert("1"), "PNG"),
        "palette": encoded(image.quantize(16), "GIF"),
        "clear": encoded(clear, "PNG"),
        "clear gray": encoded(clear.convert("LA"), "PNG"),
        "16 bit": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "float": encoded(Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"),
        "webp": encoded(image, "WEBP"),
        "line": encoded(landscape(90, 1), "PNG"),
        "pixel": encoded(landscape(1, 1), "BMP"),
        "turned png": encoded(image, "PNG", exif=exif(6)),
    }
    return {**turned, **others}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found
