"""Made-up requests: each gets an answer below 500, an error is a sentence in JSON, and the server lives on."""

import json

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.servers import IMAGES, config, form, in_memory

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "encoded", "probabilities"]) | JSON,
        "datatype": st.sampled_from(["FP32", "BYTES", "UINT8"]) | JSON,
        "shape": st.lists(st.integers(-1, 30), max_size=5) | JSON,
        "data": st.lists(st.text(max_size=8), max_size=3) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "classification", "binary_data"]), st.integers(-1, 99) | JSON
        )
        | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3) | JSON},
    optional={"outputs": st.lists(TENSOR, max_size=3) | JSON, "id": JSON, "parameters": JSON},
)


@pytest.fixture(scope="module")
def client(checkpoint_file):
    with in_memory(config(checkpoint_file, max_body_mib=1)) as client:
        yield client
        assert client.post("/predict", files=form(IMAGES[0])).status_code == 200


def checked(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"} and answer.json()["error"]


def written(client, **request):
    """None for what the client itself does not send."""
    try:
        request = client.build_request(**request)
        request.read()  # forms are written only now
    except (UnicodeError, ValueError, TypeError, AttributeError, httpx.InvalidURL):
        return None
    return request


@pytest.mark.seconds
def test_requests_made_from_the_schema(client):
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    for operation in schema.get_all_operations():
        made = operation.ok().as_strategy()

        @settings(max_examples=10, **QUIET)
        @given(made)
        def ask(case):
            sent = case.as_transport_kwargs(base_url="http://testserver")
            sent.pop("cookies", None)
            if (request := written(client, **sent)) is not None:
                checked(client.send(request))

        ask()


@pytest.mark.seconds
@settings(max_examples=150, **QUIET)
@given(request=REQUEST, behind=st.binary(max_size=40), length=st.none() | st.integers(-3, 400))
def test_requests_of_the_protocol(client, request, behind, length):
    body = json.dumps(request).encode() + behind
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    checked(client.post("/v2/models/animals/infer", content=body, headers=headers))


@pytest.mark.seconds
@settings(max_examples=100, **QUIET)
@given(place=st.integers(0, 10_000), noise=st.binary(max_size=30), cut=st.integers(0, 10_000), kind=st.integers(0, 2))
def test_damaged_images_and_forms(client, place, noise, cut, kind):
    image = bytearray(IMAGES[kind])
    start = place % len(image)
    image[start : start + len(noise)] = noise
    checked(client.post("/predict", files=form(bytes(image[: len(image) - cut % len(image)]))))
    request = client.build_request("POST", "/predict", files=form(IMAGES[kind]))
    body = bytearray(request.read())
    body[place % len(body) : place % len(body) + len(noise)] = noise
    content_type = request.headers["content-type"]
    checked(client.post("/predict", content=bytes(body), headers={"content-type": content_type}))


@settings(max_examples=100, **QUIET)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]),
    path=st.text(st.characters(codec="utf-8", exclude_characters="?#"), max_size=20),
    query=st.dictionaries(st.sampled_from(["model", "top_k", "min_score"]), st.text(max_size=9)),
)
def test_any_path_and_query(client, method, path, query):
    for start in ("/", "/v2/models/", "/predict"):
        request = written(client, method=method, url=start + path.lstrip("/"), params=query)
        assert request is None or client.send(request).status_code < 500
