"""Plots of detections on an image and of precision-recall curves."""

import colorsys
import io
import logging
import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rexnet.detection.evaluation import CocoResult
from rexnet.errors import require
from rexnet.files import write_whole
from rexnet.text import printable, quantity

logger = logging.getLogger(__name__)

_LEAST_PX = 480
_MASK_OPACITY = 0.45
_GOLDEN_RATIO = 0.618034

Box = tuple[float, float, float, float]


def draw_detections(
    image: Image.Image,
    detection: dict[str, Tensor],
    *,
    classes: Sequence[str],
    min_score: float,
    font: str | None = None,
) -> Image.Image:
    """Return a copy of the RGB image with boxes, masks, class names and scores; detections with the highest score are
    drawn on top.

    `detection` as returned by torchvision's detectors: boxes (N, 4) as x0 y0 x1 y1 in pixels of `image`, labels (N,)
    with label i for classes[i - 1], and optionally scores (N,) and masks (N, 1, H, W), 0 to 1. Without scores, as in
    ground truth, all objects are plotted. A class has the same colour in every image. An image whose longer side is
    below 480 pixels is enlarged by an integer factor so that names are readable. `font`: font file to try first.
    """
    scale = -(-_LEAST_PX // max(image.size))
    canvas = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    labels: list[int] = detection["labels"].tolist()
    boxes = (detection["boxes"].float().cpu() * scale).tolist()
    scores = detection["scores"].tolist() if "scores" in detection else None
    chosen = list(range(len(labels)))
    if scores is not None:
        chosen = sorted((index for index in chosen if scores[index] >= min_score), key=lambda index: scores[index])
    if "masks" in detection:
        for index in chosen:
            mask = detection["masks"][index, 0].float().cpu().numpy() > 0.5
            _tint(canvas, mask, class_colour(labels[index]))
    draw = ImageDraw.Draw(canvas)
    line_px = max(2, round(max(canvas.size) / 400))
    for index in chosen:
        draw.rectangle(_ordered(boxes[index]), outline=class_colour(labels[index]), width=line_px)
    taken: list[Box] = []
    # Place labels of the highest score first.
    for index in reversed(chosen):
        name, file = legible(classes[labels[index] - 1], labels[index], font)
        text = name if scores is None else f"{name} {scores[index]:.2f}"
        colour = class_colour(labels[index])
        taken.append(_write_name(draw, text, boxes[index], colour=colour, taken=taken, font_file=file))
    return canvas


@cache
def class_colour(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of a label, the same everywhere and far from the colours of nearby labels."""
    hue = label * _GOLDEN_RATIO % 1.0
    saturation, value = ((0.85, 1.0), (0.65, 0.85), (0.95, 0.75))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tint(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Colour the pixels of `mask` (H, W), resized to the image."""
    strength = Image.fromarray(np.where(mask, round(255 * _MASK_OPACITY), 0).astype(np.uint8))
    image.paste(colour, mask=strength.resize(image.size, Image.Resampling.NEAREST))


def _ordered(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = box
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _write_name(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Sequence[float],
    *,
    colour: tuple[int, int, int],
    taken: list[Box],
    font_file: Path,
) -> Box:
    """Write `text` on a background of `colour` at the first free place around the box; return its rectangle."""
    canvas_width, canvas_height = draw.im.size
    font = _font(font_file, max(13, round(max(canvas_width, canvas_height) / 48)))
    width, height = font.getlength(text) + 6, font.size * 1.3
    x0, y0, x1, y1 = _ordered(box)
    places = [(x0, y0 - height), (x0, y0), (x0, y1), (x1 - width, y0 - height), (x1 - width, y1 - height)]
    plates = []
    for x, y in places:
        x, y = max(0.0, min(x, canvas_width - width)), max(0.0, min(y, canvas_height - height))
        plates.append((x, y, x + width, y + height))
    plate = next((plate for plate in plates if not any(_overlap(plate, other) for other in taken)), plates[0])
    draw.rectangle(plate, fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    middle = plate[1] + height / 2
    draw.text((plate[0] + 3, middle), text, fill="black" if bright else "white", font=font, anchor="lm")
    return plate


def _overlap(first: Box, second: Box) -> bool:
    apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
    return not apart


def legible(name: str, number: int, font: str | None = None) -> tuple[str, Path]:
    """Return `name` and a font file with all its characters: `font`, DejaVu Sans, or a system font. If there is none,
    return "class NUMBER" instead of `name`, and log a warning once per name."""
    path = _covering_font(name, font)
    return (name, path) if path else (f"class {number}", _dejavu())


@cache
def _covering_font(name: str, font: str | None) -> Path | None:
    from matplotlib.font_manager import findSystemFonts

    needed = {ord(character) for character in name if unicodedata.category(character) not in ("Cf", "Mn", "Zs")}
    own = [Path(font)] if font else []
    # Search system fonts lazily, upright and regular ones first: there may be hundreds.
    system = (Path(path) for path in sorted(findSystemFonts(), key=lambda path: (len(Path(path).stem), path)))
    for path in chain(own, [_dejavu()], system):
        if needed <= _characters(path):
            return path
    logger.warning(
        "no installed font has all characters of the class %s, so its number is plotted; give a font file with --font",
        name,
    )
    return None


@cache
def _characters(font: Path) -> frozenset[int]:
    """Return the code points of a font file; an empty set if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def check_font(path: str) -> None:
    """Raise OptionError for a file that is not a font."""
    require(bool(_characters(Path(path))), "font", printable(path), "a .ttf, .otf or .ttc file")


def _dejavu() -> Path:
    """Return matplotlib's DejaVu Sans, which covers more alphabets than Pillow's font."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _font(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size_px)


def draw_precision_recall(result: CocoResult, path: str | os.PathLike[str]) -> None:
    """Plot precision over recall at an IoU of 0.5 as a PNG: the mean in bold, up to ten classes named, more in gray."""
    # The object interface needs no display and does not touch the caller's pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    figure = Figure(figsize=(6 * len(result.curves), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(result.curves), squeeze=False)[0]
    for axis, (kind, curve) in zip(axes, result.curves.items(), strict=True):
        few = len(curve.by_class) <= 10
        texts = [legible(name, number) for number, name in enumerate(curve.by_class, start=1)]
        for number, (name, precision) in enumerate(curve.by_class.items()):
            label = f"{texts[number][0]} ({result.by_class[name][f'{kind}_ap50']:.1f} %)"
            look = {"color": f"C{number}", "label": label} if few else {"color": "0.75", "linewidth": 0.6}
            axis.plot(curve.recall, precision, **look)
        mean = f"mean of {quantity(len(curve.by_class), 'class')} ({result.metrics[f'{kind}_ap50']:.1f} %)"
        axis.plot(curve.recall, curve.mean, color="black", linewidth=2.5, label=mean)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title({"box": "boxes", "mask": "masks"}[kind] + ", IoU 0.5")
        axis.grid(alpha=0.3)
        legend = axis.legend(fontsize="small", loc="lower left")
        for written, (_, file) in zip(legend.get_texts(), texts if few else (), strict=False):
            written.set_fontproperties(FontProperties(fname=file, size="small"))
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_whole(Path(path), content.getbuffer())
