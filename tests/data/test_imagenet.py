import numpy as np
import pytest

from rexnet.data.datasets import open_dataset
from rexnet.data.imagenet import imagenet_classes, name_wordnet_ids
from tests.drawings import draw


@pytest.mark.parametrize("count", [1000, 11821, 21841])
def test_names_of_imagenet_differ(count):
    names = imagenet_classes(count)
    assert len(set(names)) == len(names) == count


def test_names_of_imagenet():
    names = imagenet_classes(1000)
    assert (names[0], names[134], names[517]) == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert imagenet_classes(3) == ("0", "1", "2")


def test_folders_named_by_wordnet_ids_are_matched_to_class_names(tmp_path):
    """n02012849 and n03126707 are both crane, the bird and the machine."""
    ids = ("n01440764", "n02012849", "n03126707", "n15075141")
    for number, name in enumerate(ids):
        (tmp_path / "val" / name).mkdir(parents=True)
        draw("cat", number).save(tmp_path / "val" / name / f"{number}.png")
    names = imagenet_classes(1000)
    images = open_dataset(tmp_path).for_measuring(names)
    assert images.targets.tolist() == [0, 134, 517, 999] and images.classes == names
    assert np.array_equal(open_dataset(tmp_path).for_measuring(ids).targets, range(4)), "a model of these ids"
    with pytest.raises(ValueError, match="does not know: n01440764"):
        open_dataset(tmp_path).for_measuring(("tench", "crane"))


def test_only_ids_beside_imagenets_own_names_are_renamed():
    names = imagenet_classes(1000)
    assert name_wordnet_ids(("n01440764", "cat"), names) == ("n01440764", "cat")
    assert name_wordnet_ids(("n01440764", "n00000000"), names) == ("tench", "n00000000")
    assert name_wordnet_ids((), names) == ()
