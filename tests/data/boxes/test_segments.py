import numpy as np
import pytest

from rexnet.data.boxes.segments import BadSegmentError, Segments, check_segment, mask_to_rle, rle_to_mask

HEIGHT, WIDTH = 30, 40


def random_polygons(random, count):
    return [(random.random(2 * random.integers(3, 12)) * 44 - 2).round(2).tolist() for _ in range(count)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_masks_are_those_of_pycocotools():
    """Polygons, several of them, and runs, compressed by pycocotools and not."""
    coco = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    given, expected = [], []
    for number in range(200):
        polygons = random_polygons(random, int(random.integers(1, 4)))
        packed = coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH))
        mask = coco.decode(packed)
        text = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
        runs = {"size": [HEIGHT, WIDTH], "counts": mask_to_rle(mask)}
        given.append((polygons, text, runs)[number % 3])
        expected.append(mask)
    segments = Segments(check_segment(value, HEIGHT, WIDTH)[0] for value in given)
    assert len({mask.sum() for mask in expected}) > 50
    for position, (value, mask) in enumerate(zip(given, expected, strict=True)):
        assert np.array_equal(segments.mask(position, HEIGHT, WIDTH), mask)
        said = segments.as_coco(position, HEIGHT, WIDTH)
        assert said == (value if isinstance(value, list) else {"size": [HEIGHT, WIDTH], "counts": mask_to_rle(mask)})


def test_rles_of_any_mask_are_decoded_to_it():
    random = np.random.default_rng(1)
    masks = [random.random((7, 5)) < share for share in (0, 0.1, 0.5, 0.9, 1)]
    masks += [np.eye(6, dtype=bool), ~np.eye(6, dtype=bool)]
    for mask in masks:
        assert np.array_equal(rle_to_mask(np.array(mask_to_rle(mask)), *mask.shape), mask)


def test_nothing_to_draw():
    segments = Segments([None, None])
    assert segments.as_coco(1, HEIGHT, WIDTH) == [] and not segments.mask(0, HEIGHT, WIDTH).any()
    assert not segments.present.any() and len(Segments([])) == 0


@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        ([1, 1, 5, 5], "has 4 coordinates"),
        ([1, 1, 5, 5, 9, 1, 3], "has 7 coordinates"),
        ([1, 1, 5, float("nan"), 9, 1], "not finite"),
        ([1, 1, 5, 1e9, 9, 1], "far beyond"),
        ([1, 1, 5, 5, 9, 9], "no area"),
        ("1 2 3 4 5 6", "not a list"),
        ([1, 1, "5", 5, 9, 1], "not a list"),
        (7, "not a list"),
    ],
)
def test_a_bad_polygon_is_skipped_and_the_others_stay(ring, reason):
    good = [1, 1, 9, 1, 9, 9]
    (kept, refused) = check_segment([good, ring], HEIGHT, WIDTH)
    assert kept == [good] and len(refused) == 1 and reason in refused[0]
    assert check_segment([ring], HEIGHT, WIDTH)[0] is None


@pytest.mark.parametrize(
    "value",
    [
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 1]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 2**70]},
        {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
        {"size": [HEIGHT, WIDTH], "counts": [1.5]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": "oooooooooooooooooo"},
        {"size": [HEIGHT, WIDTH], "counts": "no text\x00 at all"},
        {"size": [HEIGHT, WIDTH]},
        "polygon",
        4,
    ],
)
def test_rles_that_do_not_fill_the_image(value):
    with pytest.raises(BadSegmentError):
        check_segment(value, HEIGHT, WIDTH)
