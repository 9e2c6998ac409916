import numpy as np
import pytest
from PIL import Image

import recipe_sets
from rexnet.data.datasets import open_dataset
from tests.drawings import landscape


@pytest.fixture
def photos(tmp_path):
    """Flowers of one red each, brighter to validate on, and gray photos of COCO's names."""
    for split, red in (("train", 120), ("test", 240)):
        for name in recipe_sets.FLOWERS:
            (tmp_path / "flowers" / split / name).mkdir(parents=True)
            Image.new("RGB", (90, 60), (red, 0, 0)).save(tmp_path / "flowers" / split / name / "1.jpg", quality=95)
    for split in ("train2017", "val2017"):
        (tmp_path / "coco" / split).mkdir(parents=True)
        landscape(80, 60).convert("L").save(tmp_path / "coco" / split / "1.jpg")
    return tmp_path


def test_flowers_fill_the_ellipse_of_their_box_and_splits_share_none(photos):
    made = recipe_sets.paste_flowers(photos / "flowers", photos / "coco", photos / "made", images=12, size_px=96)
    sets = open_dataset(str(made)).for_detection()
    assert (len(sets.train), len(sets.val), sets.train.classes) == (12, 3, recipe_sets.FLOWERS)
    for images, red in ((sets.train, 120), (sets.val, 240)):
        for index in range(len(images)):
            pixels = np.asarray(images.load(index)).astype(int)
            is_flower = (abs(pixels - [red, 0, 0]) < 12).all(axis=2)
            covered = np.zeros_like(is_flower)
            for left, top, right, bottom in images.target(index)["boxes"].astype(int):
                assert is_flower[top:bottom, left:right].mean() == pytest.approx(np.pi / 4, abs=0.04)
                covered[top:bottom, left:right] = True
            assert covered.any() and not (is_flower & ~covered).any()


def test_the_same_flowers_every_time(photos):
    folders = [
        recipe_sets.paste_flowers(photos / "flowers", photos / "coco", photos / name, images=4, size_px=64)
        for name in ("first", "second")
    ]
    first, second = ({path.name: path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
    assert first == second
