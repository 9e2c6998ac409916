import copy
import pickle
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, auto_augment_transform, rand_augment_transform

from rexnet.data import policies
from rexnet.data.policies import as_array, on_arrays
from tests.drawings import draw, landscape

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
STYLE = {"fillcolor": (124, 116, 104), "resample": BICUBIC}
SHARES = [0.0, 0.405, -0.405, 0.013, -0.45, 0.9999]
ARGUMENTS = {
    "Invert": [()],
    "Posterize": [(1,), (3,), (8,)],
    "Solarize": [(0,), (77,), (256,)],
    "SolarizeAdd": [(0,), (99,), (128,)],
    "Contrast": [(0.1,), (0.73,), (1.0,), (1.9,)],
    "Brightness": [(0.1,), (0.73,), (1.0,), (1.9,)],
    "Sharpness": [(0.1,), (0.73,), (1.0,), (1.9,)],
    "ShearX": [(0.0,), (0.27,), (-0.3,)],
    "ShearY": [(0.0,), (0.27,), (-0.3,)],
    "TranslateXRel": [(share,) for share in SHARES],
    "TranslateYRel": [(share,) for share in SHARES],
}
IMAGES = [draw("cat", 0), draw("fox", 1, (31, 70)), landscape(97, 64), landscape(3, 2), landscape(1, 1)]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)


def differences(ours, theirs) -> np.ndarray:
    return np.abs(as_array(ours).astype(int) - np.asarray(theirs))


class TestOperations:
    @pytest.mark.parametrize("name", ARGUMENTS)
    @pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
    def test_as_pillows(self, name, resample):
        """Exact where nothing is interpolated; else one level off at most, in at most 5 % of the values."""
        shifts = name.startswith(("Shear", "Translate"))
        for arguments in ARGUMENTS[name]:
            for image in IMAGES:
                style = {**STYLE, "resample": resample}
                before = np.array(image)
                difference = differences(
                    policies._ON_ARRAYS[name](before, *arguments, **style),
                    NAME_TO_OP[name](image, *arguments, **style),
                )
                assert difference.max() <= shifts
                assert difference.mean() <= 0.05 or image.width * image.height < 10
                assert np.array_equal(before, np.array(image)), "changed in place"

    def test_posterizing_to_no_bits_is_black(self):
        """Which Pillow refuses, and timm's scale leads to below a magnitude of 2.5."""
        assert not policies._ON_ARRAYS["Posterize"](landscape(8, 8), 0).any()

    def test_either_kind_of_image(self):
        for name, arguments in ARGUMENTS.items():
            for image in (IMAGES[0], np.array(IMAGES[0])):
                result = policies._ON_ARRAYS[name](image, *arguments[0], **STYLE)
                assert isinstance(result, np.ndarray) and result.dtype == np.uint8 and result.shape == (40, 48, 3)


class TestPolicies:
    @pytest.mark.parametrize(
        "policy", ["rand-m9-mstd0.5", "rand-m6-mstd0.5-inc1", "rand-m5-n3-p0.8-tweights", "original"]
    )
    def test_draws_what_timm_draws(self, policy):
        """From the same seed the same operations with the same strength, whatever the seed."""
        make = rand_augment_transform if policy.startswith("rand") else auto_augment_transform
        theirs = make(policy, {"translate_const": 21, "img_mean": (124, 116, 104)})
        ours = on_arrays(copy.deepcopy(theirs))
        assert pickle.loads(pickle.dumps(ours)) is not None
        image = landscape(48, 48)
        changed = 0
        for number in range(300):
            seed(number)
            expected = theirs(image)
            state = (random.random(), np.random.rand())
            seed(number)
            result = ours(np.array(image))
            assert (random.random(), np.random.rand()) == state
            assert differences(result, expected).mean() < 0.3
            changed += differences(expected, image).any()
        assert changed > 150

    @pytest.mark.parametrize("policy", ["v0", "original", "rand-m1", "rand-m10-inc1"])
    def test_any_strength(self, policy):
        make = rand_augment_transform if policy.startswith("rand") else auto_augment_transform
        ours = on_arrays(make(policy, {"img_mean": (124, 116, 104)}))
        for number in range(200):
            seed(number)
            assert as_array(ours(np.array(IMAGES[0]))).shape == (40, 48, 3)

    def test_frequencies_of_operations_and_their_strength(self):
        """Two of fifteen, each with probability one half, strength 9 with a deviation of 0.5, at most 10."""
        ours = on_arrays(rand_augment_transform("rand-m9-mstd0.5", {"img_mean": (0, 0, 0)}))
        calls: Counter[str] = Counter()
        strengths = []

        def count(name, image, *arguments, **_):
            calls[name] += 1
            if name == "ShearX":
                strengths.append(abs(arguments[0]) / 0.3 * 10)
            return image

        for operation in ours.ops:
            operation.aug_fn = lambda image, *a, name=operation.name, **k: count(name, image, *a, **k)
        seed(0)
        for _ in range(15_000):
            ours(np.zeros((1, 1, 3), np.uint8))
        assert len(calls) == 15 and all(abs(number - 1000) < 4 * 1000**0.5 for number in calls.values())
        assert abs(np.mean(strengths) - 9) < 0.08 and abs(np.std(strengths) - 0.48) < 0.06 and max(strengths) <= 10

    def test_other_steps_get_pil_images(self):
        def step(image):
            assert isinstance(image, Image.Image)
            return image.rotate(90)

        assert np.array_equal(as_array(on_arrays(step)(np.array(IMAGES[0]))), np.array(IMAGES[0].rotate(90)))
