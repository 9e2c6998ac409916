import gc
import json
import logging
import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from rexnet.data.boxes.coco import find_annotation_files, load_coco_images, load_coco_sets
from rexnet.data.boxes.coco_json import read_coco
from rexnet.data.datasets import open_dataset
from rexnet.errors import BadImageError
from tests.coco_files import CATEGORIES, annotation, image_entry, many_images, write_side

TRIANGLE = [4, 5, 14, 5, 14, 17]


def one_image(tmp_path, *annotations, **entry):
    return load_coco_images(write_side(tmp_path, "train", [image_entry(1, **entry)], list(annotations)))


def essence(row) -> list[float]:
    return [row["image_id"], row["category_id"], *row["bbox"], row["area"], row["iscrowd"]]


class TestTinyCoco:
    def test_the_whole_dataset_is_read(self, tiny_coco):
        sets = load_coco_sets(tiny_coco)
        assert (len(sets.train), len(sets.val), len(sets.classes)) == (50, 50, 80)
        assert (len(sets.train.labels), len(sets.val.labels)) == (470, 382)
        assert sets.train.counts == sets.val.counts == {}
        assert sets.classes[0] == "person" and sets.classes[-1] == "toothbrush"
        assert sets.train.category_ids[[0, 11, 12, 79]].tolist() == [1, 13, 14, 90]
        assert sets.train.iscrowd.sum() == sets.val.iscrowd.sum() == 5

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
    def test_masks_boxes_and_truth_are_those_of_pycocotools(self, tiny_coco):
        pycocotools = pytest.importorskip("pycocotools.coco")
        file = find_annotation_files(tiny_coco)["val"]
        images, theirs = load_coco_images(file), pycocotools.COCO(str(file))
        for index in range(len(images)):
            target, masks = images.target(index), images.masks(index)
            assert images.load(index).size == images.size_px(index)[::-1]
            for place, number in enumerate(target["annotation_ids"].tolist()):
                expected = theirs.anns[number]
                x, y, width, height = expected["bbox"]
                np.testing.assert_allclose(target["boxes"][place], [x, y, x + width, y + height], atol=0.011)
                assert images.category_ids[target["labels"][place] - 1] == expected["category_id"]
                assert np.array_equal(masks[place], theirs.annToMask(expected))
        ours = images.to_coco()
        original = json.loads(file.read_text())["annotations"]
        assert sorted(map(essence, ours["annotations"])) == sorted(map(essence, original))


class TestIds:
    @pytest.mark.parametrize("seed", range(20))
    def test_sparse_shuffled_and_from_zero(self, tmp_path, seed):
        """Whatever the numbers, each box keeps the name of its category, and its id finds the way back."""
        random = np.random.default_rng(seed)
        ids = random.choice(2 ** int(random.integers(3, 62)), 6, replace=False).tolist()
        ids = [0, *ids[1:]] if seed % 2 and 0 not in ids else ids
        names = [f"name {number}" for number in ids]
        categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
        image_ids = random.permutation([0, 3, 10**12])
        entries = [image_entry(int(number)) for number in image_ids]
        chosen = random.integers(0, 6, 30).tolist()
        boxes = [
            annotation(int(random.integers(-5, 5)), int(random.choice(image_ids)), ids[c], (place, 1, 5, 6))
            for place, c in enumerate(chosen)
        ]
        images = load_coco_images(write_side(tmp_path, "train", entries, boxes, categories))
        assert images.counts == {} and images.category_ids.tolist() == sorted(ids)
        found = {}
        for index in range(3):
            target = images.target(index)
            for box, label in zip(target["boxes"], target["labels"], strict=True):
                found[int(box[0])] = (
                    images.image_ids[index],
                    images.classes[label - 1],
                    images.category_ids[label - 1],
                )
        for place, (c, box) in enumerate(zip(chosen, boxes, strict=True)):
            assert found[place] == (box["image_id"], names[c], ids[c])
        truth = images.to_coco()
        assert [row["id"] for row in truth["annotations"]] == list(range(1, 31))
        assert Counter(row["category_id"] for row in truth["annotations"]) == Counter(ids[c] for c in chosen)
        assert {row["id"]: row["name"] for row in truth["categories"]} == dict(zip(ids, names, strict=True))

    def test_splits_with_other_ids_are_matched_by_name(self, tmp_path):
        write_side(tmp_path, "train", [image_entry(1)], [annotation(1, category=5)])
        turned = [{"id": 7, "name": "fox"}, {"id": 8, "name": "cat"}, {"id": 9, "name": "dog"}]
        write_side(tmp_path, "val", [image_entry(1)], [annotation(1, category=8)], turned)
        sets = load_coco_sets(tmp_path)
        assert sets.train.classes == sets.val.classes == sets.classes == ("dog", "cat", "fox")
        assert sets.train.target(0)["labels"] == sets.val.target(0)["labels"] == [2]
        assert sets.val.category_ids.tolist() == [9, 8, 7] and sets.train.category_ids.tolist() == [2, 5, 90]
        assert sets.val.to_coco()["annotations"][0]["category_id"] == 8

    @pytest.mark.parametrize(
        ("categories", "said"),
        [
            ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "two categories with the id 1: 'a', 'b'"),
            ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "two categories named 'a', with the ids 1 and 2"),
            ([{"id": "1", "name": "a"}], "integer 'id'"),
            ([{"id": 1.5, "name": "a"}], "integer 'id'"),
            ([{"id": True, "name": "a"}], "integer 'id'"),
            ([{"id": 1}], "string 'name'"),
            ([{"id": 1, "name": " "}], "string 'name'"),
            (["a"], "has the category 'a'"),
        ],
    )
    def test_ambiguous_categories(self, tmp_path, categories, said):
        with pytest.raises(ValueError, match=said):
            load_coco_images(write_side(tmp_path, "train", [image_entry(1)], [], categories))

    def test_fractions_for_pixels_are_refused(self, tmp_path):
        rows = [annotation(n, n, box=(0.2, 0.1, 0.5, 0.9)) for n in (1, 2)]
        file = write_side(tmp_path, "train", [image_entry(1), image_entry(2)], rows)
        with pytest.raises(
            ValueError, match=r"within 0 to 1 only, such as \[0.2, 0.1, 0.5, 0.9\]; COCO's boxes are in pixels"
        ):
            load_coco_images(file)
        file.write_text(file.read_text(), encoding="utf-16")
        with pytest.raises(ValueError, match=r"instances_train.json cannot be read: it is UTF-16; save it as UTF-8"):
            load_coco_images(file)

    def test_splits_with_other_class_names(self, tmp_path):
        write_side(tmp_path, "train", [image_entry(1)], [])
        write_side(tmp_path, "val", [image_entry(1)], [], [*CATEGORIES[:2], {"id": 90, "name": "emu"}])
        with pytest.raises(
            ValueError, match=r"instances_val.json and .*train.json do not match.*emu.*missing here fox"
        ):
            load_coco_sets(tmp_path)


POISON = [
    (annotation(1), None),
    (annotation(2, 102, box=(0, 0, 0, 5)), "zero area"),
    (annotation(3, 103, box=(3, 3, 5, -5)), "zero area"),
    (annotation(4, 104, box=(3, 3, 1e-300, 5)), "zero area"),
    (annotation(5, 105, box=(40, 3, 5, 5)), "outside"),
    (annotation(6, 106, box=(-9, -9, 5, 5)), "outside"),
    (annotation(7, 107, box=(float("nan"), 3, 5, 5)), "not finite"),
    (annotation(8, 108, box=(3, 3, float("inf"), 5)), "not finite"),
    (annotation(9, 109, box=(3, 3, 10**400, 5)), "not finite"),
    (annotation(10, 110, box=(3, 3, 5)), "malformed box"),
    (annotation(11, 111, box=("3", 3, 5, 5)), "malformed box"),
    (annotation(12, 112, box=None), "malformed box"),
    (annotation(13, 113, box={"x": 1}), "malformed box"),
    (annotation(14), "duplicate"),
    (annotation(15, 115, category=4), "unknown category"),
    (annotation(16, 116, category=None), "unknown category"),
    (annotation(17, 117, category=[5]), "unknown category"),
    (annotation(18, image=99), "unknown image"),
    (annotation(19, image="119"), "malformed annotation"),
    (annotation(20, image=8), "unknown image"),
    ("text", "malformed annotation"),
    (annotation(22, box=(35, 25, 50, 50)), "clipped"),
    (annotation(23, box=(-0.5, 0, 30, 30.9)), None),
    (annotation(24, box=(1, 1, 6, 6), iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 1200]}), None),
    (annotation(25, box=(1, 2, 6, 6), segmentation=[[1, 1, 5, 5], TRIANGLE]), "degenerate polygon"),
    (annotation(26, box=(1, 3, 6, 6), segmentation=[[1, 1, 5, 5, 9, 9]]), "degenerate polygon"),
    (annotation(27, box=(1, 4, 6, 6), segmentation={"size": [30, 40], "counts": [3]}), "malformed mask"),
    (annotation(28, image=5, category=2), None),
    (annotation(30, image=130, iscrowd="false"), "malformed iscrowd"),
    (annotation(31, image=131, iscrowd=2), "malformed iscrowd"),
    (annotation(32, image=102), "annotation of a skipped image"),
    (annotation(33, image=102, box=(1, 1, 5, 5), iscrowd=1), "annotation of a skipped image"),
    (annotation(29, image=6, category=2, box=(9, 9, 5, 5)), None),
]
COSTLY = [102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 115, 116, 117, 119, 130, 131]
"""Images with one annotation that cannot be used."""
POISONED_IMAGES = [
    image_entry(1),
    image_entry(1),
    image_entry(2),
    image_entry(3, missing=True),
    image_entry(4, width=0, missing=True),
    image_entry(5),
    {**image_entry(6), "file_name": "5.png"},
    {"id": 7, "file_name": "7.png", "missing": True},
    "8.png",
    image_entry(8),
    image_entry(8, file_name="1.png"),
    {**image_entry(9, missing=True), "file_name": "\ud800.png"},
    {**image_entry(10, missing=True), "width": 10**5, "height": 10**5},
    *(image_entry(number) for number in COSTLY),
]
GOLDEN = {
    "malformed image": 5,
    "duplicate image id": 3,
    "duplicate file": 1,
    "missing file": 1,
    "image with an unusable annotation": 18,
    "malformed annotation": 2,
    "unknown image": 2,
    "unknown category": 3,
    "malformed box": 4,
    "not finite": 3,
    "zero area": 3,
    "outside": 2,
    "malformed iscrowd": 2,
    "annotation of a skipped image": 2,
    "duplicate": 1,
    "clipped": 1,
    "degenerate polygon": 2,
    "malformed mask": 1,
    "no mask": 5,
}


def test_objects_with_equal_boxes_are_duplicates_unless_their_outlines_differ(tmp_path):
    """Two crossed bars have one box and two masks."""
    other = [[9, 1, 9, 9, 1, 9]]
    rows = [
        annotation(1, box=(1, 1, 8, 8), segmentation=[TRIANGLE]),
        annotation(2, box=(1, 1, 8, 8), segmentation=other),
        annotation(3, box=(1, 1, 8, 8), segmentation=other),
        annotation(4, box=(1, 1, 8, 8)),
    ]
    images = load_coco_images(write_side(tmp_path, "train", [image_entry(1)], rows))
    assert images.counts == {"duplicate": 2}
    masks = images.masks(0)
    assert len(masks) == 2 and not (masks[0] == masks[1]).all()


class TestDirt:
    @pytest.fixture
    def poisoned(self, tmp_path):
        return write_side(tmp_path, "train", POISONED_IMAGES, [row for row, _ in POISON])

    def test_every_faulty_annotation_is_counted(self, poisoned, caplog):
        images = load_coco_images(poisoned)
        assert images.counts == GOLDEN
        assert "3 zero area (skipped with its image)" in caplog.text and "rexnet data check" in caplog.text
        assert images.image_ids.tolist() == [1, 2, 5]

    def test_each_is_listed_with_file_and_id(self, poisoned):
        _, findings = read_coco(poisoned)
        listed = {(f.annotation, f.kind) for f in findings if f.kind != "no mask" and f.annotation}
        expected = {
            (str(row["id"]) if isinstance(row, dict) else "at position 20", kind) for row, kind in POISON if kind
        }
        assert listed == expected
        assert next(str(f) for f in findings if f.annotation == "5").startswith("105.png, annotation 5: its box [40, 3")

    def test_the_remaining_annotations_are_complete(self, poisoned):
        images = load_coco_images(poisoned)
        targets = [images.target(index) for index in range(3)]
        assert [target["annotation_ids"].tolist() for target in targets] == [[1, 22, 23, 24, 25, 26, 27], [], [28, 29]]
        first = targets[0]
        assert first["boxes"][1].tolist() == [35, 25, 40, 30], "clipped"
        assert first["boxes"][2].tolist() == [0, 0, 29.5, 30]
        assert images.to_coco()["annotations"][2]["bbox"] == [-0.5, 0, 30, 30.9], "a rounding stays as it was"
        assert first["iscrowd"].tolist() == [0, 0, 0, 1, 0, 0, 0]
        assert [bool(mask.any()) for mask in images.masks(0)] == [False, False, False, True, True, False, False]
        for target in targets:
            boxes = target["boxes"]
            assert boxes.dtype == np.float32 and boxes.shape == (len(target["labels"]), 4)
            assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all() and (boxes <= [40, 30, 40, 30]).all()
            assert np.isfinite(target["area"]).all() and (target["area"] > 0).all()
        assert images.masks(1).shape == (0, 30, 40)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "not a JSON"),
            ("{", "not a JSON"),
            ("[" * 100_000, "not a JSON"),
            ("[]", "contains a list"),
            ('{"images": [], "annotations": []}', "no list 'categories'"),
            ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
            ('{"images": [], "annotations": [], "categories": []}', "no categories"),
            (b"\xff\xfe\x00", "it is UTF-16; save it as UTF-8"),
        ],
    )
    def test_other_files(self, tmp_path, text, said):
        file = tmp_path / "train.json"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=said):
            load_coco_images(file, tmp_path)

    def test_no_remaining_image(self, tmp_path):
        with pytest.raises(ValueError, match=r"none of the 1 images in .* can be used: 1 missing file"):
            load_coco_images(write_side(tmp_path, "train", [image_entry(1, missing=True)], []), tmp_path / "train")


class TestConfinement:
    @pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "..\\secret.png", "ABSOLUTE"])
    def test_names_that_lead_out_of_the_folder(self, tmp_path, name):
        root = tmp_path / "data"
        Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
        name = str(tmp_path / "secret.png") if name == "ABSOLUTE" else name
        bad = {**image_entry(2, missing=True), "file_name": name}
        file = write_side(root, "train", [image_entry(1), bad], [])
        with pytest.raises(ValueError, match=r"instances_train.json has an image with the file_name .*secret"):
            load_coco_images(file)

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_links_that_lead_out_of_the_folder(self, tmp_path, kind):
        root = tmp_path / "data"
        (root / "train").mkdir(parents=True)
        (tmp_path / "secrets").mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / "secrets" / "2.png")
        if kind == "file":
            (root / "train" / "2.png").symlink_to(tmp_path / "secrets" / "2.png")
        else:
            (root / "train" / "more").symlink_to(tmp_path / "secrets")
        entry = {**image_entry(2), "file_name": "2.png" if kind == "file" else "more/2.png"}
        with pytest.raises(ValueError, match="a link that leads out of the folder"):
            load_coco_images(write_side(root, "train", [image_entry(1), entry], []))

    def test_links_within_and_a_linked_image_folder(self, tmp_path):
        root = tmp_path / "data"
        write_side(tmp_path / "elsewhere", "train", [image_entry(1)], [])
        (tmp_path / "elsewhere" / "train" / "2.png").symlink_to("1.png")
        root.mkdir()
        (root / "train").symlink_to(tmp_path / "elsewhere" / "train")
        images = load_coco_images(write_side(root, "train", [image_entry(1), image_entry(2)], [annotation(1, 2)]))
        assert images.counts == {"duplicate file": 1} and len(images.target(0)["boxes"]) == 1


class TestPlaces:
    def test_images_without_a_usable_entry(self, tmp_path):
        file = write_side(tmp_path, "train", [image_entry(1)], [])
        content = json.loads(file.read_text())
        content["images"][0]["id"] = "1"
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"none of the 1 images .* entry 0 of 'images' .* needs a usable id"):
            load_coco_images(file)

    @pytest.mark.parametrize(
        ("file", "folder"),
        [
            ("annotations/instances_train2017.json", "train2017"),
            ("annotations/instances_train2017.json", "train"),
            ("annotations/instances_train.json", "images/train"),
            ("annotations/instances_Train.json", "images/Train"),
            ("annotations/instances_train2014.json", "images"),
            ("annotations/train.json", "train"),
            ("train.json", "."),
            ("train/_annotations.coco.json", "train"),
        ],
    )
    def test_layouts(self, tmp_path, file, folder):
        written = write_side(tmp_path / "x", "train", [image_entry(1)], [])
        root = tmp_path / "root"
        (root / folder).mkdir(parents=True)
        (root / file).parent.mkdir(exist_ok=True)
        written.rename(root / file)
        (tmp_path / "x" / "train" / "1.png").rename(root / folder / "1.png")
        assert load_coco_images(find_annotation_files(root)["train"]).load(0).size == (40, 30)

    def test_the_error_lists_the_searched_files(self, tmp_path):
        with pytest.raises(ValueError, match=r"no annotation file for train; looked for annotations/instances_train\*"):
            load_coco_sets(tmp_path)
        file = write_side(tmp_path, "train", [image_entry(1)], [])
        with pytest.raises(ValueError, match=r"no annotation file for val; .*val\.json"):
            load_coco_sets(tmp_path)
        (tmp_path / "train" / "1.png").unlink()
        with pytest.raises(ValueError, match=r"no image of .*, such as 1.png, was found; looked in .*train"):
            load_coco_images(file)
        (tmp_path / "annotations" / "instances_train2017.json").write_bytes(file.read_bytes())
        with pytest.raises(ValueError, match=r"several annotation files for train: .*2017"):
            load_coco_sets(tmp_path)


class TestImages:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_boxes_of_upright_and_of_stored_pixels(self, tmp_path, orientation):
        exif = Image.Exif()
        exif[274] = orientation
        pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        turned = orientation >= 5
        for number, (width, height) in enumerate([(40, 30), (30, 40)], start=1):
            folder = tmp_path / str(number)
            (folder / "train").mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "train" / "1.png", exif=exif)
            images = one_image(folder, width=width, height=height)
            if turned or number == 1:
                assert images.load(0).size == (width, height)
                if turned and number == 1:
                    assert np.array_equal(np.asarray(images.load(0)), pixels), "the stored pixels"
            else:
                with pytest.raises(BadImageError, match="40 x 30 px, but the annotation file states 30 x 40"):
                    images.load(0)


def size_of_numbers(images) -> int:
    values = {**vars(images), **vars(images._content), **vars(images._content.segments), **vars(images._content.names)}
    return sum(array.nbytes for array in {id(v): v for v in values.values() if isinstance(v, np.ndarray)}.values())


COUNT = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    rows = [
        annotation(n, n % 50 + 1, 5, (n % 30, n % 20, 1 + n / COUNT, 2), segmentation=[TRIANGLE]) for n in range(COUNT)
    ]
    root = tmp_path_factory.mktemp("flat")
    return load_coco_images(write_side(root, "train", [image_entry(n) for n in range(1, 51)], rows))


class TestObjects:
    """Crowds are no objects: not for counts, for what is trained on, nor for whether there are masks."""

    RLE = {"size": [30, 40], "counts": [0, 1200]}  # noqa: RUF012

    @pytest.mark.parametrize(("value", "crowd"), [(0, 0), (1, 1), (False, 0), (True, 1), (1.0, 1), (None, 0)])
    def test_flags(self, tmp_path, value, crowd):
        images = one_image(tmp_path, annotation(1, iscrowd=value))
        assert images.iscrowd.tolist() == [crowd] and images.num_objects.tolist() == [1 - crowd]
        assert images.num_annotations.tolist() == [1]

    def test_masks_of_crowds_do_not_count_as_masks(self, tmp_path):
        images = one_image(tmp_path, annotation(1), annotation(2, box=(1, 1, 9, 9), iscrowd=1, segmentation=self.RLE))
        assert not images.has_masks and images.counts == {}

    def test_an_rle_of_another_size_is_named(self, tmp_path):
        rle = {"size": [40, 30], "counts": [0, 1200]}
        images = one_image(tmp_path, annotation(1, segmentation=rle), annotation(2, box=(1, 1, 9, 9)))
        assert images.counts == {"malformed mask": 1} and not images.has_masks

    @pytest.mark.parametrize("iscrowd", [1, "false"])
    def test_nothing_to_train_on(self, tmp_path, iscrowd):
        for split in ("train", "val"):
            write_side(tmp_path, split, [image_entry(1)], [annotation(1, iscrowd=iscrowd)])
        with pytest.raises(
            ValueError, match=r"no objects|none of the 1 images .* annotation 1: its iscrowd is 'false'"
        ):
            open_dataset(tmp_path).for_detection()

    @pytest.mark.parametrize(("lost", "refused"), [(2, False), (3, True)])
    def test_more_than_a_tenth_lost(self, tmp_path, lost, refused):
        """A few images whose annotations cannot be used are skipped and named; more than a tenth stop training."""
        entries = [image_entry(number) for number in range(1, 21)]
        rows = [annotation(n, n, box=(4, 5, 0, 12) if n <= lost else (4, 5, 10, 12)) for n in range(1, 21)]
        for split in ("train", "val"):
            write_side(tmp_path, split, entries, rows)
        dataset = open_dataset(tmp_path)
        if refused:
            for ask in (dataset.for_detection, lambda: dataset.boxes_to_measure("val", ["cat", "dog", "fox"])):
                with pytest.raises(ValueError, match=r"3 of 20 images .* --bad-image skip"):
                    ask()
        sets = dataset.for_detection(bad_image="skip" if refused else "error")
        assert [len(sets.train), len(sets.train.labels)] == [20 - lost, 20 - lost]
        assert sets.train.skipped == [str(tmp_path / "train" / f"{n}.png") for n in range(1, lost + 1)]

    def test_classes_without_an_object(self, tmp_path, caplog):
        write_side(tmp_path, "train", [image_entry(1)], [annotation(1), annotation(2, category=2)])
        write_side(tmp_path, "val", [image_entry(1)], [annotation(1), annotation(2, category=2, iscrowd=1)])
        sets = open_dataset(tmp_path).for_detection()
        assert sets.train.empty_classes == ["fox"] and sets.val.empty_classes == ["dog", "fox"]
        assert "1 class has no object to train on: fox" in caplog.text
        assert "2 classes have no object to validate on: dog, fox" in caplog.text


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


class TestNames:
    @pytest.mark.parametrize(
        ("written", "there"),
        [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("a\\b\\{}", "a/b/{}"), (f"{COMPOSED}\\x", f"{DECOMPOSED}/x")],
    )
    def test_files_by_normal_form_and_with_backslashes(self, tmp_path, written, there):
        path = tmp_path / "train" / f"{there}.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(path)
        entry = {**image_entry(1, missing=True), "file_name": f"{written}.png"}
        images = load_coco_images(write_side(tmp_path, "train", [entry], [annotation(1)]))
        assert images.counts == {} and images.name(0) == str(path) and images.load(0).size == (40, 30)

    def test_the_exact_name_comes_first(self, tmp_path):
        (tmp_path / "train").mkdir()
        for name, colour in ((COMPOSED, "red"), (DECOMPOSED, "blue")):
            Image.new("RGB", (40, 30), colour).save(tmp_path / "train" / f"{name}.png")
        entries = [
            {**image_entry(number, missing=True), "file_name": f"{name}.png"}
            for number, name in enumerate((COMPOSED, DECOMPOSED), start=1)
        ]
        images = load_coco_images(write_side(tmp_path, "train", entries, []))
        assert [images.load(index).getpixel((0, 0)) for index in (0, 1)] == [(255, 0, 0), (0, 0, 255)]

    def test_classes_are_matched_in_unicode_normal_form(self, tmp_path):
        for split, name in (("train", COMPOSED), ("val", DECOMPOSED)):
            write_side(tmp_path, split, [image_entry(1)], [annotation(1)], [{"id": 5, "name": name}])
        sets = load_coco_sets(tmp_path)
        assert sets.train.classes == sets.val.classes == (COMPOSED,)
        assert sets.val.with_classes([DECOMPOSED]).classes == (DECOMPOSED,)

    def test_two_classes_of_one_normal_form(self, tmp_path):
        categories = [{"id": 1, "name": COMPOSED}, {"id": 2, "name": DECOMPOSED}]
        with pytest.raises(ValueError, match="two categories named"):
            load_coco_images(write_side(tmp_path, "train", [image_entry(1)], [], categories))


class TestTestSplit:
    @pytest.mark.parametrize("file", ["annotations/instances_test2017.json", "test/_annotations.coco.json"])
    def test_a_test_split_is_found_and_measured(self, tmp_path, file):
        for split in ("train", "val", "test"):
            write_side(tmp_path, split, [image_entry(1)], [annotation(1)])
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / "annotations" / "instances_test.json").rename(tmp_path / file)
        assert list(find_annotation_files(tmp_path)) == ["train", "val", "test"]
        images = open_dataset(tmp_path).boxes_to_measure("test", ["cat", "fox", "dog"])
        assert len(images) == 1 and images.name(0) == str(tmp_path / "test" / "1.png")

    def test_a_test_split_alone_cannot_be_trained_on(self, tmp_path):
        write_side(tmp_path, "test", [image_entry(1)], [])
        assert find_annotation_files(tmp_path) == {}


class TestFlat:
    def test_pickles_as_numbers(self, large):
        pickled = pickle.dumps(large, protocol=5)
        assert len(large.labels) == COUNT
        assert len(pickled) < size_of_numbers(large) + 10_000
        assert len(pickled) < COUNT * 130
        again = pickle.loads(pickled)
        assert np.array_equal(again.target(7)["boxes"], large.target(7)["boxes"]) and again.name(7) == large.name(7)

    def test_holds_no_object_per_annotation(self, large):
        """Objects that the garbage collector would have to look at, and whose counts workers would write to."""
        pickled = pickle.dumps(large)
        gc.collect()
        tracemalloc.start()
        held = pickle.loads(pickled)
        blocks = sum(row.count for row in tracemalloc.take_snapshot().statistics("filename"))
        tracemalloc.stop()
        assert blocks < 500 and len(held) == 50


def test_empty_images_stay(tmp_path):
    images = one_image(tmp_path)
    target = images.target(0)
    assert target["boxes"].shape == (0, 4) and target["segments"] == [] and not images.has_masks
    assert images.masks(0).shape == (0, 30, 40) and images.to_coco()["annotations"] == []


def test_many_images_helper_is_clean(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    assert load_coco_images(many_images(tmp_path, 7)).counts == {} and not caplog.text
