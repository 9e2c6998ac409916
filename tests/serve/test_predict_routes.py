import re

import numpy as np
import pytest

from rexnet.deploy.predictor import Predictor
from tests.serve.servers import PICTURES, config, form, in_memory


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


def test_pictures_are_answered_in_order_as_by_the_predictor(client, checkpoint_file):
    expected = Predictor(checkpoint_file, backend="torch")(PICTURES, top_k=3)
    assert len({prediction.best.probability for prediction in expected}) == len(PICTURES)
    answer = client.post("/predict?model=again&top_k=3", files=form(*PICTURES))
    assert answer.status_code == 200
    said = answer.json()
    assert (said["model"], said["kind"]) == ("again", "classifier")
    assert [result["image"] for result in said["results"]] == [f"{index}.png" for index in range(len(PICTURES))]
    for result, prediction in zip(said["results"], expected, strict=True):
        assert (result["width"], result["height"]) == (48, 40)
        assert set(result["milliseconds"]) == {"decode", "wait", "compute"}
        assert [one["class"] for one in result["predictions"]] == [one.name for one in prediction.classes]
        probabilities = [one["probability"] for one in result["predictions"]]
        assert np.allclose(probabilities, [one.probability for one in prediction.classes], atol=2e-6)


def test_one_bad_picture_does_not_take_the_others_along(client):
    good, bad = client.post("/predict?top_k=1", files=form(PICTURES[0], b"none")).json()["results"]
    assert len(good["predictions"]) == 1
    assert set(bad) == {"image", "error"}


@pytest.mark.parametrize(
    ("pictures", "query", "status", "said"),
    [
        ([b"none"], "", 415, "format"),
        ([b""], "", 400, "empty"),
        ([PICTURES[0][:-50]], "", 400, "damaged"),
        ([PICTURES[0]] * 13, "", 413, "more than the 12"),
        ([PICTURES[0]], "?model=other", 404, "no model 'other'; allowed: animals, again"),
        ([PICTURES[0]], "?top_k=0", 400, "top_k"),
        ([PICTURES[0]], "?topk=2", 400, "there is no option 'topk'; allowed: model, top_k, min_score"),
        ([PICTURES[0]], "?top_k=many", 400, "top_k"),
        ([PICTURES[0]], "?min_score=2", 400, "min_score"),
        ([PICTURES[0]], "?min_score=nan", 400, "min_score"),
        ([PICTURES[0]], "?model=%ff%00%0a" + "x" * 500, 404, "no model"),
    ],
)
def test_what_is_refused(client, pictures, query, status, said):
    answer = client.post(f"/predict{query}", files=form(*pictures))
    assert answer.status_code == status
    assert said in answer.json()["error"] and len(answer.json()["error"]) < 300


def test_more_classes_than_there_are(client):
    (result,) = client.post(f"/predict?top_k={10**30}", files=form(PICTURES[0])).json()["results"]
    assert len(result["predictions"]) == 3


@pytest.mark.parametrize("path", ["/predict", "/v2/models/animals/infer"])
def test_other_methods_are_refused_with_a_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code == 405 and "GET" in answer.json()["error"].upper()


def test_pages_of_documentation_load_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert page.status_code == 200 and "<script" not in page.text and "http" not in page.text.replace("HTTP", "")
    request = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    image = request["content"]["multipart/form-data"]["schema"]["properties"]["image"]
    assert image == {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    (style,) = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
    assert client.get(f"/{style}").headers["content-type"].startswith("text/css")
