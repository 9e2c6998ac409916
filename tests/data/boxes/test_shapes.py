import filecmp

import numpy as np
import pytest

from rexnet.data.boxes.coco import load_coco_sets
from rexnet.data.boxes.shapes import SHAPES, draw_shapes
from rexnet.data.checks.images import CheckConfig, check


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "data"
    assert draw_shapes(root, images=60, seed=3, size_px=96) == {"train": 60, "val": 15}
    return root


def test_boxes_enclose_the_visible_masks(drawn):
    sets = load_coco_sets(drawn)
    assert sets.train.counts == sets.val.counts == {} and set(sets.classes) == set(SHAPES)
    counts = np.bincount(sets.train.labels, minlength=5)[1:]
    assert counts.min() >= 15 and sets.train.has_masks and 0 < (sets.train.num_objects == 0).sum() < 10
    overlapping = 0
    for index in range(len(sets.train)):
        target, masks = sets.train.target(index), sets.train.masks(index)
        assert masks.sum(axis=0).max(initial=0) <= 1, "a pixel belongs to the shape on top"
        for mask, box, area in zip(masks, target["boxes"].astype(int), target["area"], strict=True):
            x0, y0, x1, y1 = box
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum() == area and mask.sum() >= 50
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        boxes = target["boxes"]
        overlapping += sum(
            (masks[k][int(b[1]) : int(b[3]), int(b[0]) : int(b[2])].any())
            for k in range(len(masks))
            for m, b in enumerate(boxes)
            if m != k
        )
    assert overlapping > 5


def test_a_shape_differs_from_its_surroundings(drawn):
    images = load_coco_sets(drawn).train
    for index in range(20):
        pixels, masks = np.asarray(images.load(index)).astype(float), images.masks(index).astype(bool)
        background = pixels[~masks.any(axis=0)].mean(axis=0)
        for mask in masks:
            assert np.linalg.norm(pixels[mask].mean(axis=0) - background) > 50


def test_the_same_seed_gives_the_same_files(drawn, tmp_path):
    draw_shapes(tmp_path / "again", images=60, seed=3, size_px=96)
    draw_shapes(tmp_path / "other", images=60, seed=4, size_px=96)
    names = ["annotations/instances_train.json", "annotations/instances_val.json", "train/000007.png", "val/000001.png"]
    assert filecmp.cmpfiles(drawn, tmp_path / "again", names, shallow=False)[0] == names
    assert filecmp.cmpfiles(drawn, tmp_path / "other", names, shallow=False)[1] == names
    assert check(CheckConfig(data=str(drawn), workers=0)).clean, "no image twice, none on both sides"


@pytest.mark.parametrize("fields", [{"images": 3}, {"size_px": 31}, {"seed": -1}])
def test_refused(tmp_path, fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} is "):
        draw_shapes(tmp_path / "x", **{"images": 4, "seed": 0, "size_px": 64, **fields})


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="a new or an empty folder"):
            draw_shapes(folder, images=4, seed=0, size_px=64)
