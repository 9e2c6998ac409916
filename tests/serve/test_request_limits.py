import asyncio
import gzip
import threading
import tracemalloc
import zlib

import httpx2 as httpx
import pytest
import torch

from rexnet.serve.app import create_app
from tests.serve.servers import IMAGES, by_hand, config, even, form, in_memory


@pytest.fixture
def server():
    """server(max_body_mib=1): a client of a server with one model made by hand."""
    entered = []

    def make(compute=even, api_key=None, **more):
        settings = config(**more)
        context = in_memory(settings, registry=by_hand(compute, settings), api_key=api_key)
        entered.append(context)
        return context.__enter__()

    yield make
    for context in entered:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("lies", [None, "10", "-1", "nonsense"])
def test_the_limit_on_bytes_holds_for_any_content_length(server, lies):
    client = server(max_body_mib=0.1)

    def chunks():
        for _ in range(30):
            yield bytes(10_000)

    headers = {} if lies is None else {"content-length": lies}
    answer = client.post("/v2/models/hand/infer", content=chunks(), headers=headers)
    assert answer.status_code == 413 and "0.1 MiB" in answer.json()["error"]
    assert answer.headers["connection"] == "close"
    assert client.post("/predict", files=form(IMAGES[0])).status_code == 200


COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_compressed_requests_are_decompressed(server, encoding):
    client = server(max_body_mib=0.1)
    request = client.build_request("POST", "/predict?top_k=2", files=form(IMAGES[0]))
    body = request.read()
    headers = {"content-type": request.headers["content-type"], "content-encoding": encoding}
    packed = COMPRESS[encoding](body)
    answer = client.post("/predict?top_k=2", content=packed, headers=headers)
    assert answer.status_code == 200 and len(answer.json()["results"][0]["predictions"]) == 2
    pieces = [packed[start : start + 7] for start in range(0, len(packed), 7)]
    assert client.post("/predict", content=iter(pieces), headers=headers).status_code == 200
    for damaged in (packed[:-9], packed + b"more", b"nothing compressed", packed[:20] + b"x" + packed[21:]):
        answer = client.post("/predict", content=damaged, headers=headers)
        assert answer.status_code == 400 and "decompressed" in answer.json()["error"]


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_bomb_is_limited_by_what_it_contains(server, encoding):
    client = server(max_body_mib=0.1)
    limit = int(0.1 * 2**20)
    headers = {"content-encoding": encoding}
    for size, status in ((limit, 400), (limit + 1, 413), (200 * limit, 413)):
        packed = COMPRESS[encoding](b" " * size)
        tracemalloc.start()
        try:
            answer = client.post("/v2/models/hand/infer", content=packed, headers=headers)
            assert tracemalloc.get_traced_memory()[1] < 20 * limit
        finally:
            tracemalloc.stop()
        assert answer.status_code == status
    endless = b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\0\0\0\xff\xff" * limit  # blocks that contain nothing
    assert client.post("/predict", content=endless, headers={"content-encoding": "gzip"}).status_code == 413


def test_other_encodings_are_refused(server):
    for encoding in ("br", "gzip, gzip", "x"):
        answer = server().post("/v2/models/hand/infer", content=b"x", headers={"content-encoding": encoding})
        assert answer.status_code == 415 and "allowed: gzip, deflate" in answer.json()["error"]


def test_answers_are_compressed_for_clients_that_accept_it(server):
    client = server()
    plain, packed = (client.get("/openapi.json", headers={"accept-encoding": one}) for one in ("identity", "gzip"))
    assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
    assert plain.json() == packed.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-key-1"},
        {"authorization": "Basic right-key-1"},
        {"authorization": "Bearer"},
        {"x-api-key": "right-key-12"},
        {"x-api-key": b"r\xffght-key-1"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize("path", ["/models", "/metrics", "/docs", "/openapi.json", "/v2", "/nothing", "/pages"])
def test_a_key_is_required_everywhere(server, headers, path):
    answer = server(api_key="right-key-1").get(path, headers=headers)
    assert answer.status_code == 401 and "API key" in answer.json()["error"]
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer right-key-1"}, {"authorization": "bearer right-key-1"}, {"x-api-key": "right-key-1"}],
)
def test_the_right_key_opens(server, headers):
    client = server(api_key="right-key-1")
    assert client.get("/models", headers=headers).status_code == 200
    assert client.post("/predict", files=form(IMAGES[0]), headers=headers).status_code == 200


def test_the_health_check_needs_no_key(server):
    client = server(api_key="right-key-1")
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_a_full_queue_answers_with_retry_after(server):
    computing, go_on = threading.Event(), threading.Event()

    def slow(images, alone):
        computing.set()
        go_on.wait(20)
        return even(images, alone)

    client = server(slow, queue_length=3, max_images=3, max_batch=1)
    statuses = []
    waiting = threading.Thread(
        target=lambda: statuses.append(client.post("/predict", files=form(*IMAGES[:3])).status_code)
    )
    waiting.start()
    assert computing.wait(20)
    answer = client.post("/predict", files=form(IMAGES[0]))
    go_on.set()
    waiting.join(20)
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert "allowed: 3" in answer.json()["error"]
    assert statuses == [200]
    assert client.post("/predict", files=form(IMAGES[0])).status_code == 200


def test_a_late_answer_is_cancelled(server):
    go_on = threading.Event()

    def slow(images, alone):
        go_on.wait(60)
        return even(images, alone)

    client = server(slow, timeout_s=0.1, max_batch=1, queue_length=4, max_images=4)
    try:
        for _ in range(3):
            answer = client.post("/predict", files=form(*IMAGES[:4]))
            assert answer.status_code == 503 and "0.1 s" in answer.json()["error"]
            assert answer.headers["retry-after"] == "1"
    finally:
        go_on.set()


def test_concurrent_bodies_share_the_memory():
    """Eight at once at most; the ninth is refused while the others are in work, and taken afterwards."""
    settings = config(max_body_mib=0.01)
    app = create_app(settings, registry=by_hand(even, settings))
    body = bytes(10_000)

    async def ask():
        transport = httpx.ASGITransport(app=app)
        hold, in_memory = asyncio.Event(), asyncio.Semaphore(0)

        async def held():
            yield body
            in_memory.release()  # the server asks for more, and keeps what it has
            await hold.wait()

        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            tasks = [asyncio.create_task(client.post("/v2/models/hand/infer", content=held())) for _ in range(8)]
            for _ in tasks:
                await in_memory.acquire()
            refused = await client.post("/v2/models/hand/infer", content=body)
            hold.set()
            answers = await asyncio.gather(*tasks)
            later = await client.post("/v2/models/hand/infer", content=body)
        return [answer.status_code for answer in (refused, *answers, later)]

    refused, *answers, later = asyncio.run(ask())
    assert refused == 429 and set(answers) == {400} and later == 400


def test_a_failing_network_is_a_server_error_of_one_sentence(server):
    def broken(images, alone):
        raise RuntimeError("secret detail")

    answer = server(broken).post("/predict", files=form(IMAGES[0]))
    assert answer.status_code == 500 and "secret" not in answer.text and "error" in answer.json()


def test_other_sites_get_no_permission(server):
    headers = {"origin": "http://example.com", "access-control-request-method": "POST"}
    for answer in (server().options("/predict", headers=headers), server().get("/models", headers=headers)):
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/..%2f..%2fx", "/models/tiny"]
)
def test_no_path_reaches_the_file_system(server, path):
    assert server().get(path).status_code == 404


def test_nan_outputs_are_an_error(server):
    def nan(images, alone):
        raise ValueError("what the network puts out is not finite")

    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 24, 24], "data": torch.zeros(1728).tolist()}
    assert server(nan).post("/v2/models/hand/infer", json={"inputs": [tensor]}).status_code == 400
