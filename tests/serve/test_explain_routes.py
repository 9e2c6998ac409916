import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image
from starlette.testclient import TestClient

from rexnet.serve import explain_routes
from tests.serve.hand_made import write_brightness
from tests.serve.servers import config, form, in_memory


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    path = write_brightness(tmp_path_factory.mktemp("models") / "brightness.pt")
    with in_memory(config(path, max_megapixels=1)) as found:
        yield found


def explain(client: TestClient, *pictures: bytes, **query):
    return client.post("/explain", params=query, files=form(*pictures))


def png(size: tuple[int, int] = (100, 60)) -> bytes:
    picture = Image.new("RGB", size)
    picture.paste("white", (0, 0, size[0] // 2, size[1] // 2))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()


def test_explain_says_where_the_class_is_seen(client):
    answer = explain(client, png()).json()
    assert answer["model"] == "brightness" and answer["class"] == "bright" and answer["probability"] > 0.5
    assert (answer["width"], answer["height"]) == (100, 60) and answer["region"] == [20, 0, 80, 60]
    heat = answer["heatmap"]
    assert heat["height"] == heat["width"] == len(heat["values"]) == 64
    quarter = [row[:32] for row in heat["values"][:32]]
    assert max(map(max, quarter)) == 1 and sum(map(sum, quarter)) > 0.75 * sum(map(sum, heat["values"]))
    other = explain(client, png(), model="brightness", **{"class": "dark"}).json()
    assert other["probability"] == pytest.approx(1 - answer["probability"])
    assert not any(map(any, other["heatmap"]["values"]))


@pytest.mark.parametrize(
    ("status", "sentence", "pictures", "query"),
    [
        (400, "has no class 'red'", [png()], {"class": "red"}),
        (404, "no model 'other'", [png()], {"model": "other"}),
        (400, "cannot be read", [png()[:90]], {}),
        (400, "is empty", [b""], {}),
        (415, "not in a format", [b"GIF99"], {}),
        (413, "too large", [png((2000, 501))], {}),
        (413, "more than the 1", [png(), png()], {}),
        (415, "send a form", [], {}),
    ],
)
def test_explain_refuses_with_a_sentence(client, status, sentence, pictures, query):
    answer = explain(client, *pictures, **query)
    assert answer.status_code == status and sentence in answer.json()["error"]


def test_models_that_cannot_be_explained_say_so(client):
    model = client.app.state.registry.models["brightness"]
    whole = model.current
    assert client.get("/models").json()["models"][0]["explains"] is True
    model.current = replace(whole, explainer=None)
    try:
        answer = explain(client, png())
        assert answer.status_code == 400 and "classifiers out of checkpoints" in answer.json()["error"]
        assert client.get("/models").json()["models"][0]["explains"] is False
    finally:
        model.current = whole


def test_the_version_is_that_of_what_was_explained(client, monkeypatch):
    model = client.app.state.registry.models["brightness"]
    whole = model.current

    def replaced_meanwhile(*arguments):
        model.current = replace(whole, version="new")
        return {}

    monkeypatch.setattr(explain_routes, "_explained", replaced_meanwhile)
    try:
        assert explain(client, png()).json()["version"] == whole.version
    finally:
        model.current = whole
