import base64

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet.detection.checkpoints import pack
from rexnet.detection.detectors import create_detector
from rexnet.detection.runtime import ObjectPredictor
from rexnet.engines.backends import is_installed
from rexnet.serve import image_routes, opened
from rexnet.serve.model_registry import ModelRegistry
from rexnet.training import checkpoint
from tests.drawings import draw, encoded
from tests.serve.servers import IMAGES, config, form, in_memory

SIZES_PX = {"ssdlite": (96, 96), "mask_rcnn": (64, 128)}


@pytest.fixture(scope="module", params=SIZES_PX)
def detector(request, tmp_path_factory):
    torch.manual_seed(0)
    small, large = SIZES_PX[request.param]
    model = create_detector(
        request.param, backbone="rexnet_010", num_classes=3, min_size_px=small, max_size_px=large
    ).eval()
    if request.param == "mask_rcnn":
        vars(model.get_submodule("roi_heads"))["detections_per_img"] = 5
    path = tmp_path_factory.mktemp("detector") / "things.pt"
    checkpoint.save(path, pack(model, {}, classes=("a", "b", "c"), category_ids=(1, 2, 3), score_threshold=0.375))
    return path


@pytest.fixture(scope="module")
def client(detector):
    with in_memory(config(detector)) as client:
        yield client


@pytest.mark.seconds
def test_objects_are_those_of_the_predictor(client, detector):
    predictor = ObjectPredictor(detector)
    expected = predictor(IMAGES[:2])
    described = client.get("/models").json()["models"][0]
    assert (described["backend"], described["precision"]) == (predictor.engine.backend, "fp32")
    assert predictor.engine.backend == ("native" if described["masks"] and is_installed("native", "fp32") else "torch")
    assert described["kind"] == "detector" and not described["explains"]
    said = client.post("/predict?min_score=0", files=form(*IMAGES[:2])).json()
    for result, found in zip(said["results"], expected, strict=True):
        assert [one["class"] for one in result["objects"]] == list(found.names) != []
        boxes = [one["box"] for one in result["objects"]]
        assert np.allclose(boxes, found.output["boxes"].numpy(), atol=0.02)
        assert all(("mask" in one) == described["masks"] for one in result["objects"])
        for index, one in enumerate(result["objects"] if described["masks"] else ()):
            inside = sum(one["mask"]["counts"][1::2])
            assert one["mask"]["size"] == [40, 48] and inside == (found.output["masks"][index] > 0.5).sum()


@pytest.mark.seconds
def test_only_objects_above_the_threshold(client):
    found = client.post("/predict?min_score=0", files=form(IMAGES[0])).json()["results"][0]["objects"]
    middle = found[len(found) // 2]["score"]
    sure = client.post(f"/predict?min_score={middle}", files=form(IMAGES[0])).json()["results"][0]["objects"]
    assert 0 < len(sure) < len(found) or found[0]["score"] == found[-1]["score"]
    answer = client.post("/predict?top_k=1", files=form(IMAGES[0]))
    assert answer.status_code == 400 and "a detector, which has no top_k; allowed: min_score" in answer.json()["error"]


@pytest.mark.seconds
def test_the_score_threshold_is_that_of_the_file(client):
    assert client.get("/models").json()["models"][0]["score_threshold"] == 0.375
    assert client.get("/v2/models/things").json()["parameters"] == {"min_score": 0.375}
    every = client.post("/predict?min_score=0", files=form(IMAGES[0])).json()["results"][0]["objects"]
    shown = client.post("/predict", files=form(IMAGES[0])).json()["results"][0]["objects"]
    assert shown == [one for one in every if one["score"] >= 0.375]
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGES[0]).decode()]}
    outputs = client.post("/v2/models/things/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert outputs[2]["data"] == [one["class"] for one in shown]


@pytest.mark.seconds
def test_the_protocol_has_boxes_scores_and_labels(client, detector):

    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGES[0]).decode()]}
    answer = client.post("/v2/models/things/infer", json={"inputs": [tensor], "parameters": {"min_score": 0}})
    boxes, scores, labels = answer.json()["outputs"]
    found = ObjectPredictor(detector)(IMAGES[0])[0]
    count = len(found.names)
    assert (boxes["shape"], scores["shape"], labels["shape"]) == ([count, 4], [count], [count])
    assert labels["data"] == list(found.names)
    assert np.allclose(np.reshape(boxes["data"], (-1, 4)), found.output["boxes"].numpy(), atol=1e-3)
    for wrong in ({"min_score": 2}, {"min_score": "all"}, {"min_score": True}):
        assert client.post("/v2/models/things/infer", json={"inputs": [tensor], "parameters": wrong}).status_code == 400
    described = client.get("/v2/models/things/config").json()
    assert described["max_batch_size"] == 0 and described["input"][0]["dims"] == [1]
    assert [output["dims"] for output in described["output"]] == [[-1, 4], [-1], [-1]]
    two = {**tensor, "shape": [2], "data": tensor["data"] * 2}
    answer = client.post("/v2/models/things/infer", json={"inputs": [two]})
    assert answer.status_code == 400 and answer.json()["error"].endswith("has the shape [2]; allowed: [1]")


@pytest.mark.seconds
def test_masks_and_boxes_of_a_shrunken_image_are_of_the_whole_one(client, monkeypatch):
    monkeypatch.setattr(opened, "_MASK_PIXELS", 1200)
    image = encoded(draw("cat", 0, (96, 80)), "PNG")
    (result,) = client.post("/predict?min_score=0", files=form(image)).json()["results"]
    assert (result["width"], result["height"]) == (96, 80)
    for one in result["objects"]:
        left, top, right, bottom = one["box"]
        assert 0 <= left <= right <= 96.01 and 0 <= top <= bottom <= 80.01
        if "mask" in one:
            assert one["mask"]["size"] == [80, 96] and sum(one["mask"]["counts"]) == 96 * 80


@pytest.mark.seconds
def test_both_interfaces_name_the_same_boxes_of_a_shrunken_image(detector, monkeypatch):
    monkeypatch.setattr(opened, "_MASK_PIXELS", 1200)
    monkeypatch.setattr(opened, "_BOX_PIXELS", 1200)
    image = encoded(draw("cat", 0, (96, 80)), "PNG")
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(image).decode()]}
    with in_memory(config(detector)) as client:
        (result,) = client.post("/predict?min_score=0", files=form(image)).json()["results"]
        asked = {"inputs": [tensor], "parameters": {"min_score": 0}}
        boxes = client.post("/v2/models/things/infer", json=asked).json()["outputs"][0]["data"]
    assert len(boxes) > 0
    assert np.allclose(np.reshape(boxes, (-1, 4)), [one["box"] for one in result["objects"]], atol=0.01)
    assert max(boxes) > 1200**0.5 * 1.1  # not of the smaller copy


def test_an_image_that_would_shrink_to_nothing_is_refused(client):
    masks = client.get("/models").json()["models"][0]["masks"]  # SSDLite resizes both sides to the same
    for size in ((3000, 1), (1, 3000)):
        answer = client.post("/predict", files=form(encoded(Image.new("RGB", size), "PNG")))
        assert answer.status_code == (400 if masks else 200) and ("30 times" in answer.text) == masks
    assert client.post("/predict", files=form(encoded(Image.new("RGB", (300, 10)), "PNG"))).status_code == 200


@pytest.mark.seconds
def test_the_predictor_names_a_file_that_is_too_elongated(detector, tmp_path):
    Image.new("RGB", (3000, 1)).save(tmp_path / "line.png")
    found = list(ObjectPredictor(detector).stream([tmp_path / "line.png"], bad_image="skip"))
    if "masks" in ObjectPredictor(detector)(IMAGES[0])[0].output:
        assert "line.png cannot be used as an image: 3,000 x 1 pixels are too long and narrow" in found[0].error
    else:
        assert found[0].error is None


@pytest.mark.seconds
def test_few_images_are_decoded_ahead(detector, monkeypatch):
    inside, most = 0, 0
    read, described = ModelRegistry._decode, image_routes.objects_to_json

    def counted_read(*arguments):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        return read(*arguments)

    def counted_description(*arguments):
        nonlocal inside
        found = described(*arguments)
        inside -= 1
        return found

    monkeypatch.setattr(ModelRegistry, "_decode", counted_read)
    monkeypatch.setattr(image_routes, "objects_to_json", counted_description)
    with in_memory(config(detector)) as client:
        assert client.post("/predict", files=form(*IMAGES[:8])).status_code == 200
    assert inside == 0 and 1 <= most <= 3
