import dataclasses
import json
import math
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.loader import PrefetchLoader
from torch import tensor

from rexnet.data.config import AugmentConfig
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform, Views, batch_mixer
from rexnet.models.published import IMAGENET_MEAN, IMAGENET_STD

ODD_SIZES = [(1, 1), (2, 3), (1, 31), (99, 1), (224, 224), (225, 224), (500, 333), (333, 500), (7, 640), (31, 33)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class TestPreprocess:
    @pytest.mark.parametrize("size", ODD_SIZES)
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"image_size_px": 32, "crop_ratio": 1.0},
            {"image_size_px": 65, "crop_ratio": 0.9, "interpolation": "bilinear", "mean": (0.5, 0.4, 0.3)},
            {"image_size_px": 33, "crop_ratio": 0.95, "interpolation": "lanczos", "std": (0.5, 0.4, 0.3)},
        ],
    )
    def test_bit_for_bit_the_transform_of_timm(self, settings, size):
        preprocess = Preprocess(**settings)
        timm_transform = create_transform(
            preprocess.image_size_px,
            is_training=False,
            crop_pct=preprocess.crop_ratio,
            interpolation=preprocess.interpolation,
            mean=preprocess.mean,
            std=preprocess.std,
        )
        image = noise(*size)
        result = preprocess(image)
        assert result.shape == (3, preprocess.image_size_px, preprocess.image_size_px)
        assert result.dtype == torch.float32 and result.is_contiguous()
        assert torch.equal(result, timm_transform(image))

    def test_the_mean_colour_becomes_zero_once(self):
        mean = (51 / 255, 102 / 255, 204 / 255)
        preprocess = Preprocess(image_size_px=8, mean=mean)
        result = preprocess(Image.new("RGB", (20, 10), (51, 102, 204)))
        torch.testing.assert_close(result, torch.zeros(3, 8, 8))

    def test_channels_are_red_green_blue(self):
        preprocess = Preprocess(image_size_px=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        assert preprocess(Image.new("RGB", (4, 4), (255, 0, 51)))[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])

    @pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 1000), (1, 2_000_000)])
    def test_very_long_strips_need_no_extra_time(self, size):
        """Resized first and cropped then, the last would need 1.5 terabytes. The middle is what remains."""
        image = Image.new("RGB", size, (10, 200, 30))
        middle = (size[0] // 2, size[1] // 2)
        image.paste((250, 0, 0), (middle[0] - 20, middle[1] - 20, middle[0] + 20, middle[1] + 20))
        preprocess = Preprocess()
        expected = preprocess(Image.new("RGB", (64, 64), (250, 0, 0)))
        torch.testing.assert_close(preprocess(image), expected)

    def test_round_trip_through_json(self):
        preprocess = Preprocess(image_size_px=33, crop_ratio=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
        again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
        assert again == preprocess and hash(again) == hash(preprocess)

    @pytest.mark.parametrize("change", [{"extra": 1}, {"mean": None}])
    def test_foreign_dict(self, change):
        fields = {**Preprocess().to_dict(), **change}
        if fields["mean"] is None:
            del fields["mean"]
        with pytest.raises(ValueError, match=r"preprocessing must have the fields .*mean"):
            Preprocess.from_dict(fields)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("image_size_px", 0),
            ("image_size_px", 3.5),
            ("crop_ratio", 0.0),
            ("crop_ratio", 1.01),
            ("crop_ratio", math.nan),
            ("interpolation", "cubic"),
            ("mean", (0.5, 0.5)),
            ("mean", (0.5, 0.5, math.nan)),
            ("std", (0.5, 0.5, 0.0)),
            ("std", (0.5, 0.5, math.inf)),
        ],
    )
    def test_settings_out_of_range(self, field, value):
        with pytest.raises(ValueError, match=f"^{field} is .* but the allowed values are "):
            Preprocess(**{field: value})

    def test_pickles_before_and_after_use(self):
        preprocess, image = Preprocess(image_size_px=32), noise(40, 50)
        fresh = pickle.loads(pickle.dumps(preprocess))
        expected = preprocess(image)
        used = pickle.loads(pickle.dumps(preprocess))
        assert fresh == used == preprocess
        assert torch.equal(fresh(image), expected) and torch.equal(used(image), expected)


AUGMENTATIONS = {
    "default": AugmentConfig(),
    "imagenet": AugmentConfig(auto_augment="rand-m9-mstd0.5", random_erasing=0.9),
    "padded": AugmentConfig(crop_padding_px=4),
    "jitter": AugmentConfig(color_jitter=0.4, random_erasing=0.9, erasing_mode="const"),
    "augmix": AugmentConfig(auto_augment="augmix-m3-w3"),
    "v0": AugmentConfig(auto_augment="v0"),
}


class TestTrainTransform:
    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_shape_seeding_and_pickling(self, name):
        transform = TrainTransform(Preprocess(image_size_px=32), AUGMENTATIONS[name])
        image = noise(50, 40)
        results = []
        for candidate, seed in ((transform, 1), (pickle.loads(pickle.dumps(transform)), 1), (transform, 2)):
            seed_everything(seed)
            results.append(candidate(image))
        assert all(r.shape == (3, 32, 32) and r.dtype == torch.float32 and r.isfinite().all() for r in results)
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    @pytest.mark.parametrize("name", ["default", "padded", "imagenet"])
    @pytest.mark.parametrize("size", [*ODD_SIZES, (1, 5000), (5000, 1), (1, 1_000_000)])
    def test_any_size_of_image(self, name, size):
        transform = TrainTransform(Preprocess(image_size_px=24), AUGMENTATIONS[name])
        image = Image.new("RGB", size, (255, 255, 255))
        for _ in range(10):
            assert transform(image).shape == (3, 24, 24)

    def test_nothing_random_is_the_evaluation_transform(self):
        """But for the last bit of the normalisation and one of 255 levels of the resizing."""
        preprocess = Preprocess(image_size_px=32, crop_ratio=1.0, interpolation="bilinear")
        augment = AugmentConfig(crop_scale=(1, 1), crop_aspect=(1, 1), crop_interpolation="bilinear", horizontal_flip=0)
        image = noise(48, 48)
        torch.testing.assert_close(
            TrainTransform(preprocess, augment)(image), preprocess(image), atol=1.01 / 255 / min(IMAGENET_STD), rtol=0
        )

    def test_padded_crop_keeps_scale_and_shows_black_edges_at_most(self):
        preprocess = Preprocess(image_size_px=8, crop_ratio=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        transform = TrainTransform(preprocess, AugmentConfig(crop_padding_px=2, horizontal_flip=0.0))
        image = noise(8, 8)
        whole = preprocess(image)
        canvas = torch.zeros(3, 12, 12)
        canvas[:, 2:10, 2:10] = whole
        seen = set()
        for _ in range(200):
            result = transform(image)
            places = [
                (y, x) for y in range(5) for x in range(5) if torch.equal(canvas[:, y : y + 8, x : x + 8], result)
            ]
            assert len(places) == 1
            seen.update(places)
        assert len(seen) > 20

    def test_flip_probability(self):
        image = noise(8, 8)
        preprocess = Preprocess(image_size_px=8, crop_ratio=1.0)
        plain, mirrored = preprocess(image), preprocess(image).flip(2)
        for probability, expected in ((0.0, [plain]), (1.0, [mirrored])):
            augment = AugmentConfig(crop_scale=(1, 1), crop_aspect=(1, 1), horizontal_flip=probability)
            torch.testing.assert_close(TrainTransform(preprocess, augment)(image), expected[0])

    def test_erasing_happens_after_normalisation(self):
        transform = TrainTransform(
            Preprocess(image_size_px=32), AugmentConfig(random_erasing=1.0, erasing_mode="const")
        )
        result = transform(Image.new("RGB", (32, 32), "white"))
        assert (result == 0).any() and result.max() == pytest.approx((1 - IMAGENET_MEAN[2]) / IMAGENET_STD[2], abs=0.4)

    @pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
    def test_finishes_batches_as_timms_prefetcher(self, mode):
        preprocess = Preprocess(image_size_px=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
        transform = TrainTransform(preprocess, AugmentConfig(random_erasing=0.5, erasing_mode=mode))
        views = [transform.draw(noise(40, 30, seed)) for seed in range(8)]
        plain = Views.of([view._replace(patch=None) for view in views])
        pixels = plain.pixels.permute(0, 3, 1, 2)
        loader: Any = [(pixels, torch.zeros(8))]
        cpu = torch.device("cpu")
        ((expected, _),) = PrefetchLoader(loader, mean=preprocess.mean, std=preprocess.std, device=cpu)
        assert torch.equal(transform.finish(plain), expected)
        result = transform.finish(Views.of(views))
        for view, erased, whole in zip(views, result, expected, strict=True):
            if view.patch is not None:
                top, left, height, width, values = view.patch
                whole[:, top : top + height, left : left + width] = values
            assert torch.equal(erased, whole)
        assert any(view.patch for view in views) and result.is_contiguous()

    def test_finishes_on_the_device(self):
        transform = TrainTransform(Preprocess(image_size_px=8), AugmentConfig(random_erasing=1.0))
        result = transform.finish(Views.of([transform.draw(noise(9, 9)) for _ in range(3)]), torch.device("meta"))
        assert result.device.type == "meta" and result.shape == (3, 3, 8, 8)

    def test_rotated_images_are_interpolated_like_crops(self):
        for augment in (AugmentConfig(auto_augment="rand-m9"), AugmentConfig(auto_augment="v0", crop_padding_px=2)):
            for name, expected in (("random", (2, 3)), ("bilinear", 2), ("bicubic", 3)):
                transform = TrainTransform(Preprocess(), dataclasses.replace(augment, crop_interpolation=name))
                (step,) = transform._colour_steps
                operation = step.ops[0] if hasattr(step, "ops") else step.policy[0][0]
                assert operation.kwargs["resample"] == expected

    @pytest.mark.parametrize("policy", ["no-such", "rand-x9", "bicubic"])
    def test_unknown_policy(self, policy):
        with pytest.raises(ValueError, match=f"--auto-augment is '{policy}', which timm does not know"):
            TrainTransform(Preprocess(), AugmentConfig(auto_augment=policy))


class TestAugmentConfig:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("crop_scale", (0.0, 1.0)),
            ("crop_scale", (0.9, 0.1)),
            ("crop_scale", (0.5, 1.5)),
            ("crop_aspect", (2.0, 1.0)),
            ("crop_padding_px", -1),
            ("horizontal_flip", 1.1),
            ("random_erasing", -0.1),
            ("erasing_mode", "noise"),
            ("crop_interpolation", "lanczos"),
            ("mixup", -1.0),
            ("label_smoothing", 1.0),
            ("label_smoothing", math.nan),
        ],
    )
    def test_out_of_range(self, field, value):
        with pytest.raises(ValueError, match=f"^--{field.replace('_', '-')} is .*; allowed: "):
            AugmentConfig(**{field: value})

    @pytest.mark.parametrize(
        ("settings", "field"),
        [
            ({"crop_padding_px": 4, "crop_scale": (0.5, 1.0)}, "crop_scale"),
            ({"crop_padding_px": 4, "crop_interpolation": "bicubic"}, "crop_interpolation"),
            ({"auto_augment": "rand-m9", "color_jitter": 0.4}, "color_jitter"),
            ({"erasing_mode": "const"}, "erasing_mode"),
            ({"mixup_prob": 0.5}, "mixup_prob"),
            ({"mixup": 0.2, "cutmix_share": 0.1}, "cutmix_share"),
        ],
    )
    def test_settings_without_effect(self, settings, field):
        with pytest.raises(ValueError, match=f"^--{field.replace('_', '-')} is .*; allowed: .*, or another value "):
            AugmentConfig(**settings)

    def test_replacing_and_repeating_validation_is_harmless(self):
        config = AugmentConfig(crop_padding_px=4, mixup=0.2, mixup_prob=0.5)
        assert dataclasses.replace(config) == config


class TestBatchMixer:
    def test_off(self):
        assert batch_mixer(AugmentConfig(label_smoothing=0.1), 10) is None

    @pytest.mark.parametrize("augment", [AugmentConfig(mixup=0.8), AugmentConfig(cutmix=1.0, label_smoothing=0.1)])
    @pytest.mark.parametrize("size", [2, 3, 8, 9])
    def test_targets_follow_the_pixels(self, augment, size):
        """Each image holds its own class number everywhere, so its mean tells how much of what is in it."""
        mixer = pickle.loads(pickle.dumps(batch_mixer(augment, size)))
        smoothing = augment.label_smoothing
        for seed in range(10):
            np.random.seed(seed)
            labels = torch.arange(size)
            images = labels.float().view(-1, 1, 1, 1).repeat(1, 3, 16, 16)
            mixed, targets = mixer(images, labels)
            assert len(mixed) == len(targets) == size // 2 * 2
            torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
            plain = (targets - smoothing / size) / (1 - smoothing)
            torch.testing.assert_close(plain @ torch.arange(size).float(), mixed.mean((1, 2, 3)), atol=1e-4, rtol=1e-4)

    def test_probability_zero_only_smooths(self):
        mixer = batch_mixer(AugmentConfig(mixup=0.8, mixup_prob=0.0, label_smoothing=0.2), 2)
        assert mixer is not None
        images = torch.rand(2, 3, 4, 4)
        mixed, targets = mixer(images.clone(), tensor([0, 1]))
        assert torch.equal(mixed, images)
        torch.testing.assert_close(targets, tensor([[0.9, 0.1], [0.1, 0.9]]))
