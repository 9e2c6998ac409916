import re
from collections.abc import Iterator
from importlib.resources import files

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from rexnet.serve.app import page_files
from tests.serve.hand_made import write_brightness
from tests.serve.servers import by_hand, config, even, in_memory, listening


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    path = write_brightness(tmp_path_factory.mktemp("models") / "brightness.pt")
    with in_memory(config(path, max_megapixels=1)) as found:
        yield found


def test_the_page_loads_nothing_from_other_hosts(client):
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "img-src 'self' blob: data:" in policy
    assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/docs", "/v2/health/ready", "/v2/models/hand"])
def test_head_answers_like_get_without_the_body(path):
    settings = config()
    with listening(settings, registry=by_hand(even, settings), api_key="key-of-the-test") as address:
        plain = {"accept-encoding": "identity", "authorization": "Bearer key-of-the-test"}
        whole = httpx.get(f"http://{address}{path}", headers=plain)
        head = httpx.head(f"http://{address}{path}", headers=plain)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.headers.get("etag") == whole.headers.get("etag")


@pytest.mark.parametrize("name", sorted(page_files()))
def test_every_file_is_served_once_and_then_only_when_it_changes(client, name):
    answer = client.get(f"/page/{name}")
    kinds = {
        "html": "text/html",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
        "jpg": "image/jpeg",
    }
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kinds[name.split(".")[-1]])
    assert answer.content == files("rexnet.serve").joinpath("page", name).read_bytes()
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content and again.headers["cache-control"] == "no-cache"
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page.py", "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/page/x/y", "/page/%00", "/pages"]
)
def test_no_other_file_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and list(answer.json()) == ["error"]


def test_the_page_refers_only_to_existing_local_files():
    known = page_files()
    for name, file in known.items():
        if name.endswith(".jpg"):
            continue
        text = file.content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|[\"'(]//", text), name
        linked = re.findall(r'(?:src|href)="page/([^"]+)"|from "\./([^"]+)"', text)
        assert {first or second for first, second in linked} <= known.keys(), name
        if name.endswith(".html"):
            assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)", text), "the policy forbids these"
    scripts = [name for name in known if name.endswith(".js")]
    imported = {
        name for file in known.values() for name in re.findall(r'from "\./([^"]+)"', file.content.decode("latin-1"))
    }
    assert imported | {"page.js"} == set(scripts), "every script is used"


def test_documentation_pages_load_nothing_from_other_hosts(client):
    page = client.get("/docs")
    assert page.status_code == 200 and "POST /predict" in page.text and "multipart/form-data" in page.text
    assert "<script" not in page.text and "http" not in page.text.replace("HTTP", "")
    request = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    image = request["content"]["multipart/form-data"]["schema"]["properties"]["image"]
    assert image == {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    (style,) = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
    assert client.get(f"/{style}").headers["content-type"].startswith("text/css")
