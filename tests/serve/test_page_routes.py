import asyncio
import io
import re
from dataclasses import replace
from importlib.resources import files

import pytest

pytest.importorskip("fastapi", reason="needs the packages of pip install 'rexnet[serve]'")
import httpx
from fastapi import FastAPI
from PIL import Image

from rexnet.serve.app import create_app
from rexnet.serve.config import ServeConfig
from rexnet.serve.page_routes import page_files
from tests.serve.served import write_brightness


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> FastAPI:
    path = write_brightness(tmp_path_factory.mktemp("models") / "brightness.pt")
    return create_app(ServeConfig(models=(str(path),), backend="torch", threads=1, reload=False, max_megapixels=1))


def ask(app: FastAPI, method: str, path: str, **options) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def explain(app: FastAPI, *pictures: bytes, **query) -> httpx.Response:
    return ask(app, "POST", "/explain", params=query, files=[("image", ("a.png", data)) for data in pictures])


def png(size: tuple[int, int] = (100, 60)) -> bytes:
    picture = Image.new("RGB", size)
    picture.paste("white", (0, 0, size[0] // 2, size[1] // 2))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()


def test_the_page_lets_nothing_in_from_elsewhere(app):
    answer = ask(app, "GET", "/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "img-src 'self' blob: data:" in policy
    assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(page_files()))
def test_every_file_is_served_once_and_then_only_when_it_changes(app, name):
    answer = ask(app, "GET", f"/page/{name}")
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kinds[name.split(".")[-1]])
    assert answer.content == files("rexnet.serve").joinpath("page", name).read_bytes()
    again = ask(app, "GET", f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content and again.headers["cache-control"] == "no-cache"
    assert ask(app, "GET", f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page.py", "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/page/x/y", "/page/%00", "/pages"]
)
def test_no_other_file_can_be_had(app, path):
    answer = ask(app, "GET", path)
    assert answer.status_code == 404 and list(answer.json()) == ["error"]


def test_the_page_names_only_files_that_are_there_and_none_from_elsewhere():
    known = page_files()
    for name, file in known.items():
        text = file.content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|[\"'(]//", text), name
        linked = re.findall(r'(?:src|href)="page/([^"]+)"|from "\./([^"]+)"', text)
        assert {first or second for first, second in linked} <= known.keys(), name
        if name.endswith(".html"):
            assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)", text), "the policy forbids these"
    scripts = [name for name in known if name.endswith(".js")]
    imported = {name for file in known.values() for name in re.findall(r'from "\./([^"]+)"', file.content.decode())}
    assert imported | {"page.js"} == set(scripts), "every script is used"


def test_explain_says_where_the_class_is_seen(app):
    answer = explain(app, png()).json()
    assert answer["model"] == "brightness" and answer["class"] == "bright" and answer["probability"] > 0.5
    assert (answer["width"], answer["height"]) == (100, 60) and answer["region"] == [20, 0, 80, 60]
    heat = answer["heatmap"]
    assert heat["height"] == heat["width"] == len(heat["values"]) == 64
    quarter = [row[:32] for row in heat["values"][:32]]
    assert max(map(max, quarter)) == 1 and sum(map(sum, quarter)) > 0.75 * sum(map(sum, heat["values"]))
    other = explain(app, png(), model="brightness", **{"class": "dark"}).json()
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
def test_explain_refuses_with_a_sentence(app, status, sentence, pictures, query):
    answer = explain(app, *pictures, **query)
    assert answer.status_code == status and sentence in answer.json()["error"]


def test_models_that_cannot_be_explained_say_so(app):
    model = app.state.shelf.models["brightness"]
    whole = model.current
    assert ask(app, "GET", "/models").json()["models"][0]["explains"] is True
    model.current = replace(whole, explainer=None)
    try:
        answer = explain(app, png())
        assert answer.status_code == 400 and "classifiers out of checkpoints" in answer.json()["error"]
        assert ask(app, "GET", "/models").json()["models"][0]["explains"] is False
    finally:
        model.current = whole
