import pickle
import sys

import numpy as np

from rexnet.data.image_set import ArrayImages, FileImages


class TestImageSet:
    def test_paths_are_not_stored_as_objects(self):
        paths = [f"/data/class{number % 10}/image_{number:07d}.jpg" for number in range(20_000)]
        images = FileImages(paths, np.zeros(len(paths)), ("a",))
        assert [images.name(index) for index in (0, 1, 19_999)] == [paths[0], paths[1], paths[-1]]
        assert not [v for v in vars(images).values() if isinstance(v, list | dict)]
        assert len(pickle.dumps(images)) < 20_000 * (sys.getsizeof(paths[0]) + 8)

    def test_pickles(self):
        array = ArrayImages(
            np.zeros((2, 4, 4), np.uint8), np.array([1, 0]), ("a", "b"), label="x", numbers=np.array([7, 9])
        )
        assert pickle.loads(pickle.dumps(array)).name(1) == "x/9"

    def test_renumbering_leaves_the_original(self):
        images = FileImages(["a", "b"], [0, 1], ("a", "b"))
        assert images.with_classes(("b", "c", "a")).targets.tolist() == [2, 0]
        assert images.targets.tolist() == [0, 1] and images.classes == ("a", "b")
