from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from rexnet.detection import plot
from rexnet.detection.evaluation import score
from rexnet.detection.plot import check_font, class_colour, draw_detections, draw_precision_recall, legible
from rexnet.errors import OptionError
from tests.detection.coco_sets import draw_set

CLASSES = ("cat", "dog")


def gray(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 100, 100))


def detection(**changes):
    return {
        "boxes": torch.tensor([[100.0, 200.0, 300.0, 400.0], [320.0, 40.0, 460.0, 150.0]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.3]),
    } | changes


def test_boxes_and_names_are_drawn_at_the_objects():
    image = gray(500, 480)
    pixels = np.asarray(draw_detections(image, detection(), classes=CLASSES, min_score=0.2))
    for label, (x0, y0, x1, y1) in ((1, (100, 200, 300, 400)), (2, (320, 40, 460, 150))):
        drawn = (pixels == class_colour(label)).all(axis=2)
        for y, x in ((y0, x0), (y1, x0), (y0, x1), (y1, x1), ((y0 + y1) // 2, x0), (y1, (x0 + x1) // 2)):
            assert drawn[y, x]
        assert not drawn[y0 + 10 : y1 - 10, x0 + 10 : x1 - 10].any(), "the object itself stays visible"
        plate = pixels[y0 - 14 : y0 - 2, x0 + 2 : x0 + 60]
        assert len(np.unique(plate.reshape(-1, 3), axis=0)) > 3, "letters"
    assert np.asarray(image).std() == 0


def test_the_minimum_score_applies_and_ground_truth_is_drawn_completely():
    def colours(found, min_score):
        pixels = np.asarray(draw_detections(gray(500, 480), found, classes=CLASSES, min_score=min_score))
        return [bool((pixels == class_colour(label)).all(axis=2).any()) for label in (1, 2)]

    assert colours(detection(), 0.3 - 1e-6) == [True, True]
    assert colours(detection(), 0.5) == [True, False]
    assert colours(detection(), 0.95) == [False, False]
    truth = detection()
    del truth["scores"]
    assert colours(truth, 1.0) == [True, True]


def test_a_mask_tints_only_its_pixels():
    masks = torch.zeros(2, 1, 480, 500)
    masks[0, 0, 250:300, 150:250] = 0.9
    masks[1, 0, 460:, :] = 0.4
    pixels = np.asarray(draw_detections(gray(500, 480), detection(masks=masks), classes=CLASSES, min_score=0.2))
    inside = pixels[250:300, 150:250].reshape(-1, 3)
    assert (inside == inside[0]).all() and (inside[0] != 100).any()
    assert inside[0] == pytest.approx(0.55 * 100 + 0.45 * np.array(class_colour(1)), abs=2)
    assert (pixels[460:] == 100).all() and (pixels[310:390, 110:290] == 100).all()


def test_a_small_image_is_enlarged_with_its_objects():
    found = {key: value / 10 if key == "boxes" else value for key, value in detection().items()}
    masks = torch.zeros(2, 1, 48, 50)
    masks[0, 0, 25:30, 15:25] = 1
    drawn = draw_detections(gray(50, 48), {**found, "masks": masks}, classes=CLASSES, min_score=0.2)
    assert drawn.size == (500, 480)
    large = detection(masks=masks.repeat_interleave(10, 2).repeat_interleave(10, 3))
    assert drawn.tobytes() == draw_detections(gray(500, 480), large, classes=CLASSES, min_score=0.2).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (40, 30), (2000, 50)])
def test_odd_images_boxes_outside_and_long_names_are_drawn(size):
    boxes = torch.tensor([[-50.0, -50.0, 5000.0, 5000.0], [5.0, 5.0, 5.0, 5.0], [30.0, 20.0, 3.0, 2.0]])
    found = {"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": torch.ones(3)}
    names = ("ein sehr langer Name " * 8, "Ёж")
    drawn = draw_detections(gray(*size), found, classes=names, min_score=0.5)
    assert drawn.width % size[0] == 0 and drawn.height % size[1] == 0 and max(drawn.size) >= 480
    assert np.asarray(drawn).std() > 0


def test_an_image_without_detections_is_unchanged():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 500, 3), dtype=np.uint8))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    for found in (nothing, {**nothing, "masks": torch.zeros(0, 1, 480, 500)}):
        assert draw_detections(image, found, classes=CLASSES, min_score=0.0).tobytes() == image.tobytes()


def test_names_of_crowded_objects_do_not_cover_one_another():
    boxes = torch.tensor([[100.0, 200.0, 300.0, 400.0]] * 3)
    found = {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "scores": torch.tensor([0.5, 0.6, 0.7])}
    pixels = np.asarray(draw_detections(gray(500, 480), found, classes=("a", "b", "c"), min_score=0.0))
    for label in (1, 2, 3):
        assert (pixels == class_colour(label)).all(axis=2).sum() > 250


def test_eighty_classes_have_eighty_colours():
    colours = np.array([class_colour(label) for label in range(1, 81)], dtype=float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e9 * np.eye(80)
    assert distance.min() > 8
    assert np.diagonal(distance, 1).min() > 100, "labels side by side differ most"


@pytest.fixture
def cat_font(tmp_path) -> Path:
    """A font with one glyph, a full square for the sign of a cat, besides digits and a space."""
    builder = FontBuilder(1000, isTTF=True)
    signs = {ord("\u732b"): "cat", ord(" "): "space", ord("."): "cat", **{ord(digit): "cat" for digit in "0123456789"}}
    builder.setupGlyphOrder([".notdef", "cat", "space"])
    builder.setupCharacterMap(signs)
    pen = TTGlyphPen(None)
    for number, point in enumerate(((0, 0), (0, 900), (900, 900), (900, 0))):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder.setupGlyf({".notdef": empty, "cat": pen.glyph(), "space": empty})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "cat", "space")})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    return tmp_path / "cats.ttf"


def test_names_in_other_scripts_use_a_font_that_covers_them(cat_font, monkeypatch, caplog):
    plot._covering_font.cache_clear()
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(cat_font.with_name("damaged.ttf"))])
    cat_font.with_name("damaged.ttf").write_bytes(b"not a font")
    assert legible("Ёж, füchse", 1)[1].name == "DejaVuSans.ttf"
    for _ in range(2):
        assert legible("\u732b", 7) == ("class 7", legible("cat", 1)[1])
    assert caplog.text.count("no installed font has all characters of the class \u732b") == 1
    assert legible("\u732b", 7, str(cat_font)) == ("\u732b", cat_font)
    plot._covering_font.cache_clear()
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(cat_font)])
    assert legible("\u732b", 7) == ("\u732b", cat_font)
    classes = ("\u732b", "dog")
    images = [
        draw_detections(gray(500, 480), detection(), classes=names, min_score=0.2) for names in (classes, CLASSES)
    ]
    assert images[0].tobytes() != images[1].tobytes()
    plot._covering_font.cache_clear()
    with pytest.raises(OptionError, match=r"--font is .*damaged\.ttf; allowed: a \.ttf"):
        check_font(str(cat_font.with_name("damaged.ttf")))


@pytest.mark.parametrize("num_classes", [4, 12])
def test_precision_recall_is_plotted_with_a_panel_per_kind(tmp_path, num_classes):
    coco, rows = draw_set(3, category_ids=range(num_classes), masks=True)
    widths = []
    for kinds in (("box",), ("box", "mask")):
        draw_precision_recall(score(coco, rows, kinds=kinds), tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as image:
            assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20) or []) > 10
            widths.append(image.width)
    assert widths[1] == 2 * widths[0]
