import json
from dataclasses import replace

import pytest

from rexnet.data.datasets import open_dataset
from rexnet.data.facts import DataFacts


@pytest.fixture(scope="module")
def digits() -> DataFacts:
    return open_dataset("digits").for_training().facts()


def test_facts_survive_json(digits):
    assert (digits.title, digits.train_images, digits.val_images) == ("digits", 1438, 359)
    assert digits.classes == tuple("0123456789") and digits.val_fraction is None and len(digits.fingerprint) == 64
    assert DataFacts.from_dict(json.loads(json.dumps(digits.to_dict()))) == digits
    assert digits.description == open_dataset("digits").for_training().description


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (
            "cats: and dogs: 1,438 train / 359 val images of 1,000 classes (20 % of each class held back, seed 0)",
            {
                "title": "cats: and dogs",
                "train_images": 1438,
                "val_images": 359,
                "split": "20 % of each class held back, seed 0",
            },
        ),
        (
            "digits: 80 train / 359 val images of 10 classes (its own split; 8 of each class to train on, seed 0), "
            "40 val images measured on",
            {"title": "digits", "train_images": 80, "val_images": 40, "train_objects": None},
        ),
        (
            "images: 1,200 train / 300 val with 2,800 / 1,008 objects of 4 classes",
            {"train_images": 1200, "val_images": 300, "train_objects": 2800, "val_objects": 1008, "split": None},
        ),
    ],
)
def test_facts_of_older_versions_are_read(description, expected):
    facts = DataFacts.from_dict({"description": description, "classes": ["a", "b"]})
    assert {name: getattr(facts, name) for name in expected} == expected and facts.fingerprint is None


@pytest.mark.parametrize("values", [{"description": "some data", "classes": ["a"]}, {"title": "digits"}])
def test_invalid_facts_are_refused(values):
    with pytest.raises(ValueError, match=r"some data|train_images"):
        DataFacts.from_dict(values)


def test_an_error_for_other_data_names_the_different_facts(digits):
    old = DataFacts.from_dict({"description": digits.description, "classes": list(digits.classes)})
    moved = replace(digits, title="elsewhere", path="/there", split="as ever")
    assert digits.differences(old) == [] and digits.differences(moved) == []
    other = replace(digits, val_images=300, fingerprint="0")
    assert digits.differences(other) == ["val_images", "fingerprint"]
    with pytest.raises(ValueError, match=r"runs/1 started with.*val images, fingerprint.*359 val.*300 val"):
        digits.refuse_other(other, subject="runs/1")


def test_the_fingerprint_follows_the_images(image_folder):
    before = open_dataset(image_folder).for_training().facts()
    moved = image_folder.rename(image_folder.with_name("moved"))
    assert open_dataset(moved).for_training().facts().differences(before) == []
    file = next((moved / "val").rglob("*.png"))
    file.rename(file.with_name("another.png"))
    assert open_dataset(moved).for_training().facts().differences(before) == ["fingerprint"]


def test_crowds_counted_as_objects_by_older_versions_are_not_a_difference(digits):
    old = replace(digits, train_objects=57, val_objects=9)
    new = replace(digits, train_objects=50, val_objects=8, train_crowds=7, val_crowds=1)
    assert new.differences(old) == [] and "with 50 / 8 objects" in new.description
    assert new.differences(replace(old, train_objects=58)) == ["train_boxes"]
