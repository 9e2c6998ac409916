import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from starlette.testclient import TestClient

from rexnet.deploy.predictor import Predictor
from rexnet.serve import image_routes
from rexnet.serve.image_routes import uncompressed_rle
from tests.serve.hand_made import write_brightness
from tests.serve.servers import IMAGES, config, form, in_memory


@pytest.fixture(scope="module")
def client(checkpoint_file):
    with in_memory(config(checkpoint_file, f"again={checkpoint_file}", max_images=12)) as client:
        yield client


def test_the_models(client):
    first, second = client.get("/models").json()["models"]
    assert (first["name"], second["name"]) == ("animals", "again")
    assert first["kind"] == "classifier" and first["classes"] == ["cat", "dog, or wolf", "füchse"]
    assert first["image_size_px"] == 24 and first["explains"] is True and first["masks"] is False
    assert first["version"] == second["version"] and len(first["version"]) == 12


def test_images_are_answered_in_order_as_by_the_predictor(client, checkpoint_file):
    expected = Predictor(checkpoint_file, backend="torch")(IMAGES, top_k=3)
    assert len({prediction.best.probability for prediction in expected}) == len(IMAGES)
    answer = client.post("/predict?model=again&top_k=3", files=form(*IMAGES))
    assert answer.status_code == 200
    said = answer.json()
    assert (said["model"], said["kind"]) == ("again", "classifier")
    assert [result["image"] for result in said["results"]] == [f"{index}.png" for index in range(len(IMAGES))]
    for result, prediction in zip(said["results"], expected, strict=True):
        assert (result["width"], result["height"]) == (48, 40)
        assert set(result["milliseconds"]) == {"decode", "wait", "compute"}
        assert [one["class"] for one in result["predictions"]] == [one.name for one in prediction.classes]
        probabilities = [one["probability"] for one in result["predictions"]]
        assert np.allclose(probabilities, [one.probability for one in prediction.classes], atol=2e-6)


def test_one_bad_image_does_not_spoil_the_others(client):
    good, bad = client.post("/predict?top_k=1", files=form(IMAGES[0], b"none")).json()["results"]
    assert len(good["predictions"]) == 1
    assert set(bad) == {"image", "error"}


@pytest.mark.parametrize(
    ("images", "query", "status", "said"),
    [
        ([b"none"], "", 415, "format"),
        ([b""], "", 400, "empty"),
        ([IMAGES[0][:-50]], "", 400, "damaged"),
        ([IMAGES[0]] * 13, "", 413, "more than 12"),
        ([IMAGES[0]], "?model=other", 404, "no model 'other'; allowed: animals, again"),
        ([IMAGES[0]], "?top_k=0", 400, "top_k is '0'; allowed: a whole number, 1 or more"),
        ([IMAGES[0]], "?topk=2", 400, "there is no option 'topk'; allowed: model, top_k, min_score"),
        ([IMAGES[0]], "?top_k=many", 400, "top_k is 'many'; allowed: a whole number, 1 or more"),
        ([IMAGES[0]], "?min_score=2", 400, "min_score is '2'; allowed: a number from 0 to 1"),
        ([IMAGES[0]], "?min_score=nan", 400, "min_score"),
        ([IMAGES[0]], "?min_score=0.5", 400, "animals is a classifier, which has no min_score; allowed: top_k"),
        ([IMAGES[0]], "?model=animals&model=again", 400, "model is given 2 times; allowed: once"),
        ([IMAGES[0]], "?top_k=1&top_k=1", 400, "top_k is given 2 times"),
        ([IMAGES[0]], "?model=%ff%00%0a" + "x" * 500, 404, "no model"),
    ],
)
def test_bad_requests_are_refused(client, images, query, status, said):
    answer = client.post(f"/predict{query}", files=form(*images))
    assert answer.status_code == status
    assert said in answer.json()["error"] and len(answer.json()["error"]) < 300


def test_more_classes_than_there_are(client):
    (result,) = client.post(f"/predict?top_k={10**30}", files=form(IMAGES[0])).json()["results"]
    assert len(result["predictions"]) == 3


@pytest.mark.parametrize("path", ["/predict", "/v2/models/animals/infer"])
def test_other_methods_are_refused_in_one_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code == 405 and "'GET' is not allowed" in answer.json()["error"]
    assert answer.headers["Allow"] == "POST" and answer.json()["error"].endswith("; allowed: POST")


@pytest.mark.parametrize(
    ("path", "allowed"), [("/predict", "POST"), ("/models", "GET, HEAD"), ("/", "GET, HEAD"), ("/v2", "GET, HEAD")]
)
def test_the_methods_that_are_allowed(client, path, allowed):
    answer = client.put(path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    head = client.head(path)
    assert (head.status_code == 200) == ("HEAD" in allowed)
    assert head.status_code == 200 or (head.status_code, head.headers["Allow"]) == (405, allowed)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory) -> Iterator[TestClient]:
    path = write_brightness(tmp_path_factory.mktemp("models") / "brightness.pt")
    with in_memory(config(path, max_megapixels=1)) as found:
        yield found


def explain(client: TestClient, *images: bytes, **query):
    return client.post("/explain", params=query, files=form(*images))


def png(size: tuple[int, int] = (100, 60)) -> bytes:
    image = Image.new("RGB", size)
    image.paste("white", (0, 0, size[0] // 2, size[1] // 2))
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def test_explain_shows_where_the_class_is_seen(brightness):
    answer = explain(brightness, png()).json()
    assert answer["model"] == "brightness" and answer["class"] == "bright" and answer["probability"] > 0.5
    assert (answer["width"], answer["height"]) == (100, 60) and answer["region"] == [20, 0, 80, 60]
    heat = answer["heatmap"]
    assert heat["height"] == heat["width"] == len(heat["values"]) == 64
    quarter = [row[:32] for row in heat["values"][:32]]
    assert max(map(max, quarter)) == 1 and sum(map(sum, quarter)) > 0.75 * sum(map(sum, heat["values"]))
    other = explain(brightness, png(), model="brightness", **{"class": "dark"}).json()
    assert other["probability"] == pytest.approx(1 - answer["probability"])
    assert not any(map(any, other["heatmap"]["values"]))


@pytest.mark.parametrize(
    ("status", "sentence", "images", "query"),
    [
        (400, "has no class 'red'", [png()], {"class": "red"}),
        (404, "no model 'other'", [png()], {"model": "other"}),
        (400, "cannot be read", [png()[:90]], {}),
        (400, "is empty", [b""], {}),
        (415, "allowed: JPEG", [b"GIF99"], {}),
        (413, "too large", [png((2000, 501))], {}),
        (413, "more than 1", [png(), png()], {}),
        (415, "not a form", [], {}),
    ],
)
def test_explain_refuses_in_one_sentence(brightness, status, sentence, images, query):
    answer = explain(brightness, *images, **query)
    assert answer.status_code == status and sentence in answer.json()["error"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (415, {"content": png(), "headers": {"content-type": "image/png"}}),
        (415, {"content": png()}),
        (415, {"data": {"image": "photo.jpg"}}),
        (400, {"files": {"file": png()}}),
        (400, {"files": {"text": (None, "photo.jpg")}}),
    ],
)
@pytest.mark.parametrize("route", ["/predict", "/explain"])
def test_an_image_sent_in_another_way_gets_the_right_command(brightness, route, status, body):
    answer = brightness.post(route, **body)
    assert answer.status_code == status and "curl -F image=@photo.jpg" in answer.json()["error"]


def test_unexplainable_models_are_reported(brightness):
    model = brightness.app.state.registry.models["brightness"]
    whole = model.current
    assert brightness.get("/models").json()["models"][0]["explains"] is True
    model.current = replace(whole, explainer=None)
    try:
        answer = explain(brightness, png())
        assert answer.status_code == 400 and "classifiers from checkpoints" in answer.json()["error"]
        assert brightness.get("/models").json()["models"][0]["explains"] is False
    finally:
        model.current = whole


def test_the_version_is_that_of_what_was_explained(brightness, monkeypatch):
    model = brightness.app.state.registry.models["brightness"]
    whole = model.current

    def replaced_meanwhile(*arguments, **named):
        model.current = replace(whole, version="new")
        return {}

    monkeypatch.setattr(image_routes, "_explain", replaced_meanwhile)
    try:
        assert explain(brightness, png()).json()["version"] == whole.version
    finally:
        model.current = whole


# Of pycocotools with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.bool_, SIZES))
def test_pycocotools_reads_the_same_mask(mask):
    masks = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    runs = uncompressed_rle(torch.from_numpy(mask).float(), width=width, height=height)
    assert runs["size"] == [height, width] and sum(runs["counts"]) == mask.size
    assert np.array_equal(masks.decode(masks.frPyObjects(runs, height, width)).astype(bool), mask)


def test_a_mask_of_a_smaller_copy_covers_the_whole_image():
    small = torch.tensor([[0.0, 1.0], [0.0, 0.4]])
    assert uncompressed_rle(small, width=4, height=4) == {"size": [4, 4], "counts": [8, 2, 2, 2, 2]}


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.bool_, SIZES), SIZES)
def test_each_pixel_is_as_the_nearest_of_the_mask(mask, more):
    height, width = (part + extra for part, extra in zip(mask.shape, more, strict=True))
    counts = uncompressed_rle(torch.from_numpy(mask).float(), width=width, height=height)["counts"]
    found = np.repeat(np.arange(len(counts)) % 2, counts).reshape((height, width), order="F")
    across = np.floor((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    down = np.floor((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    assert np.array_equal(found, mask[down][:, across]) and 0 not in counts[1:]


def test_masks_of_a_large_image_take_little_memory():
    tracemalloc.start()
    try:
        runs = uncompressed_rle(torch.eye(1000), width=8000, height=6000)
        assert sum(runs["counts"]) == 48_000_000
        assert tracemalloc.get_traced_memory()[1] < 48_000_000
    finally:
        tracemalloc.stop()
