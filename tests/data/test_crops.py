import io
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode, functional

from rexnet.data.crops import RandomPaddedCrop, RandomResizedCrop, resize
from rexnet.data.jpeg import open_jpeg
from rexnet.data.preprocess import middle
from tests.drawings import encoded, landscape

SIZES = [(500, 375), (333, 500), (224, 224), (640, 120), (90, 700), (1600, 1200)]


def crop(**options) -> RandomResizedCrop:
    return RandomResizedCrop(
        **{"size_px": 224, "scale": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "interpolation": "random", **options}
    )


class TestBoxes:
    @pytest.mark.parametrize("size", SIZES)
    def test_distributed_as_timms(self, size):
        """Two-sample Kolmogorov-Smirnov distance of area, aspect ratio and place; chance alone exceeds 0.031
        once in 10,000 times."""
        ours, theirs, image = [], [], Image.new("L", size)
        random.seed(1)
        for _ in range(10_000):
            left, top, width, height = crop().draw(size)
            assert left >= 0 and top >= 0 and left + width <= size[0] and top + height <= size[1]
            ours.append((width * height, width / height, left / size[0], top / size[1]))
            top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, (0.08, 1), (3 / 4, 4 / 3))
            theirs.append((width * height, width / height, left / size[0], top / size[1]))
        for mine, other in zip(np.array(ours).T, np.array(theirs).T, strict=True):
            points = np.concatenate([mine, other])
            shares = [np.searchsorted(np.sort(values), points, side="right") / 10_000 for values in (mine, other)]
            assert np.abs(shares[0] - shares[1]).max() < 0.031

    @pytest.mark.parametrize(("size", "expected"), [((1000, 100), (433, 0, 133, 100)), ((60, 600), (0, 260, 60, 80))])
    def test_the_centre_crop_if_no_crop_fits(self, size, expected):
        assert crop(scale=(1, 1)).draw(size) == expected
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(
            Image.new("L", size), (1, 1), (3 / 4, 4 / 3)
        )
        assert (left, top, width, height) == expected

    @pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (3, 2), (1, 60_000_000)])
    def test_never_empty(self, size):
        for _ in range(200):
            left, top, width, height = crop().draw(size)
            assert width > 0 and height > 0 and left + width <= size[0] and top + height <= size[1]

    def test_very_long_strips_are_cropped(self):
        assert middle((3, 1000)) == (0, 350, 3, 300)
        assert middle((50, 40)) == (0, 0, 50, 40)

    def test_interpolation(self):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
        either = {name: resize(np.asarray(image), 32, name) for name in ("bilinear", "bicubic")}
        whole = {"size_px": 32, "scale": (1, 1), "aspect": (1, 1)}
        for name, expected in either.items():
            assert torch.equal(crop(**whole, interpolation=name)(image), expected)
        random.seed(0)
        drawn = [crop(**whole)(image) for _ in range(400)]
        shares = [sum(torch.equal(pixels, expected) for pixels in drawn) for expected in either.values()]
        assert sum(shares) == 400 and 160 < shares[0] < 240


class TestPixels:
    @pytest.fixture
    def photos(self, shared_data) -> list[bytes]:
        with tarfile.open(shared_data / "imagenet_sample.tar") as tar:
            names = sorted(name for name in tar.getnames() if name.endswith(".JPEG"))
            return [tar.extractfile(name).read() for name in names[::25]]

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_real_photos_equal_timms_crops(self, photos, interpolation):
        """A fixed list of 60 crops at full resolution. Of 255 levels, values differ by 0.4 on average in any crop, by
        0.05 in all; by more than one in 0.01 % (bilinear) or 2 % (bicubic) of a crop."""
        means = []
        random.seed(0)
        for data in photos:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            for _ in range(3):
                jpeg, box = open_jpeg(data), crop().draw(image.size)
                left, top, width, height = box
                theirs = functional.resized_crop(
                    image, top, left, height, width, [224, 224], InterpolationMode(interpolation)
                )
                ours = resize(jpeg.crop(box, 10_000), 224, interpolation).permute(1, 2, 0).numpy()
                difference = np.abs(ours.astype(int) - np.asarray(theirs))
                assert difference.mean() < 0.4
                assert (difference > 1).mean() < (2e-2 if interpolation == "bicubic" else 1e-4)
                means.append(difference.mean())
        assert len(means) == 60 and np.mean(means) < 0.05

    def test_reduced_decoding_is_close(self, photos):
        """The same from a half, a quarter or an eighth, with 1.5 times the pixels needed or more: 3 of 255 levels on
        average, 12 in the worst crop, a fine texture; and no brighter or darker than 0.1."""
        random.seed(0)
        differences = []
        for data in photos:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            box = crop(scale=(0.6, 1)).draw(image.size)
            pixels = open_jpeg(data).crop(box, 80)
            if pixels.shape[0] < box.height:
                theirs = np.asarray(image.crop(box.corners).resize((80, 80), Image.Resampling.BICUBIC))
                differences.append(resize(pixels, 80, "bicubic").permute(1, 2, 0).numpy() - theirs.astype(int))
        sizes = [np.abs(difference).mean() for difference in differences]
        assert len(sizes) >= 15 and np.mean(sizes) < 3 and max(sizes) < 12
        assert abs(np.mean(differences)) < 0.1

    def test_every_kind_of_source(self, tmp_path):
        image = landscape(70, 50)
        (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
        (tmp_path / "a.jpg").write_bytes(encoded(image, quality=100, subsampling="4:4:4"))
        whole = crop(size_px=32, scale=(1, 1), interpolation="bicubic")
        random.seed(0)
        expected = whole(image).int()
        for source in (str(tmp_path / "a.png"), str(tmp_path / "a.jpg"), (tmp_path / "a.jpg").read_bytes()):
            random.seed(0)
            result = whole(source)
            assert result.shape == (3, 32, 32) and result.dtype == torch.uint8
            assert (result.int() - expected).abs().max() <= 4
            padded = RandomPaddedCrop(size_px=32, padding_px=2, interpolation="bicubic")(source)
            assert padded.shape == (3, 32, 32) and padded.dtype == torch.uint8
