import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet.data.preprocess import Preprocess
from rexnet.models.gradcam import grad_cam
from rexnet.models.rexnet import RexNet
from rexnet.serve.explain import MAX_HEAT_PX, Explainer, seen_region
from rexnet.training import checkpoint
from tests.networks import brightness_network, with_measured_statistics
from tests.serve.hand_made import PLAIN


def trained(model: RexNet, classes: tuple[str, ...], preprocess: Preprocess) -> checkpoint.TrainedRexNet:
    content = checkpoint.pack(model, {}, classes=classes, preprocess=preprocess)
    return checkpoint.unpack(content, source="memory")


@pytest.fixture
def brightness() -> Explainer:
    return Explainer(trained(brightness_network(), ("bright", "dark"), PLAIN))


@pytest.fixture
def tiny(tiny_model) -> Explainer:
    preprocess = Preprocess(image_size_px=32, crop_ratio=0.875)
    return Explainer(trained(with_measured_statistics(tiny_model(), size_px=32), ("a", "b", "c"), preprocess))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_heat_is_in_the_decisive_quarter(brightness, row, column):
    image = Image.new("RGB", (160, 160))
    image.paste("white", (100 * column, 100 * row, 100 * column + 60, 100 * row + 60))
    found = brightness(image)
    assert found.name == "bright" and 0.5 < found.probability < 1
    quarter = found.heat[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
    assert quarter.sum() > 0.8 * found.heat.sum() and quarter.max() == 1.0
    against = brightness(image, "dark")
    assert against.probability == pytest.approx(1 - found.probability) and not against.heat.any()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_heat_is_that_of_grad_cam_and_the_probability_that_of_the_network(tiny, name):
    image, index = noise(90, 60), "abc".index(name)
    images = tiny.model.preprocess(image)[None]
    found = tiny(image, name)
    assert torch.equal(found.heat, grad_cam(tiny.model, images, torch.tensor([index]))[0])
    with torch.no_grad():
        assert found.probability == pytest.approx(float(tiny.model(images).softmax(1)[0, index]))


def test_without_a_name_the_most_probable_class_is_explained(tiny):
    found = tiny(noise(40, 40))
    others = [tiny(noise(40, 40), name) for name in "abc"]
    assert found.probability == max(other.probability for other in others)
    assert sum(other.probability for other in others) == pytest.approx(1)


def test_large_maps_are_sent_as_means_over_areas(brightness):
    preprocess = Preprocess(image_size_px=130, crop_ratio=1.0, mean=PLAIN.mean, std=PLAIN.std)
    large = Explainer(trained(brightness.model, ("bright", "dark"), preprocess))
    image = noise(200, 130)
    whole = grad_cam(large.model, preprocess(image)[None], torch.tensor([0]))[0]
    heat = large(image, "bright").heat
    assert heat.shape == (MAX_HEAT_PX, MAX_HEAT_PX) and abs(float(heat.mean() - whole.mean())) < 0.01


def test_the_answer_is_plain_json(tiny):
    answer = json.loads(json.dumps(tiny(noise(90, 60), "b").to_dict(), allow_nan=False))
    assert answer["class"] == "b" and (answer["width"], answer["height"]) == (90, 60)
    heat = answer["heatmap"]
    assert len(heat["values"]) == heat["height"] == 32 and {len(row) for row in heat["values"]} == {heat["width"]}
    assert all(0 <= value <= 1 for row in heat["values"] for value in row)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (7, 500), (1, 3000), (3, 2)])
@pytest.mark.parametrize("crop_ratio", [0.5, 0.875, 1.0])
def test_the_heat_map_covers_the_crop(size, crop_ratio):
    """A ramp tells which columns and rows of the image reach the network."""
    preprocess = Preprocess(image_size_px=64, crop_ratio=crop_ratio, interpolation="bilinear")
    width, height = size
    left, top, right, bottom = seen_region(preprocess, size)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert right - left == pytest.approx(bottom - top) and left + right == pytest.approx(width, abs=1)
    across = np.tile(np.linspace(0, 255, width), (height, 1))
    down = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    image = Image.fromarray(np.stack([across, down, down], axis=-1).round().astype(np.uint8))
    seen = preprocess.pixels(image).astype(float)
    assert abs(seen[..., 0].mean() - 255 * ((left + right) / 2) / width) < 5 + 128 / width
    assert abs(seen[..., 1].mean() - 255 * ((top + bottom) / 2) / height) < 5 + 128 / height
    if min(size) >= 60:
        assert seen[0, -1, 0] - seen[0, 0, 0] == pytest.approx(255 * (right - left) / width, abs=8)
        assert seen[-1, 0, 1] - seen[0, 0, 1] == pytest.approx(255 * (bottom - top) / height, abs=8)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 2)])
def test_images_of_any_size_are_explained(tiny, size):
    found = tiny(noise(*size))
    assert found.heat.shape == (32, 32) and found.heat.isfinite().all() and found.size == size


@pytest.mark.parametrize("name", ["", "A", "bright\n", "../bright", "x" * 5000])
def test_an_unknown_class_is_named(brightness, name):
    with pytest.raises(ValueError, match=r"has no class .*2 classes") as error:
        brightness(noise(8, 8), name)
    assert len(str(error.value)) < 200


def test_a_diverged_network_is_reported(tiny):
    torch.nn.init.constant_(tiny.model.get_classifier().weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        tiny(noise(8, 8))


def test_threads_do_not_disturb_one_another(tiny):
    images = [noise(40, 30, seed) for seed in range(6)]
    alone = [tiny(image, "a") for image in images]
    found = [None] * len(images)

    def explain(place: int) -> None:
        for _ in range(5):
            found[place] = tiny(images[place], "a")

    threads = [threading.Thread(target=explain, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for together, single in zip(found, alone, strict=True):
        assert together is not None and torch.allclose(together.heat, single.heat, atol=1e-5)
        assert together.probability == pytest.approx(single.probability)
