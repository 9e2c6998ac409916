"""NVIDIA's client drives the server; it knows nothing of this project."""

import json

import numpy as np
import pytest
import torch

import rexnet
from rexnet.data.decode import open_image
from rexnet.deploy.classifiers import ExportedFile
from rexnet.deploy.predictor import Predictor
from rexnet.engines.graph_files import write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.inference_form import fold
from rexnet.serve.metrics import Metrics
from tests.serve.servers import IMAGES, config, in_memory, listening

triton = pytest.importorskip("tritonclient.http")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def address(checkpoint_file):
    with listening(config(checkpoint_file, f"second={checkpoint_file}", max_images=12)) as address:
        yield address


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(checkpoint_file):
    return Predictor(checkpoint_file, backend="torch")


@pytest.fixture(scope="module")
def images(predictor):
    return torch.stack([predictor.prepare(open_image(content)) for content in IMAGES]).numpy()


def input_of(name, values, datatype, *, binary=True):
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def test_server_metadata(client, predictor):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("animals") and not client.is_model_ready("nothing")
    extensions = client.get_server_metadata()["extensions"]
    assert extensions == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "statistics",
    ]  # no loading and unloading
    index = client.get_model_repository_index()
    assert [model["name"] for model in index] == ["animals", "second"]
    version = index[0]["version"]
    assert client.is_model_ready("animals", version) and not client.is_model_ready("animals", "1")
    metadata = client.get_model_metadata("animals", version)
    assert metadata["versions"] == [version]
    assert metadata["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [-1, 3, 24, 24]}
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    assert client.get_model_config("animals")["max_batch_size"] == 12


def test_statistics_count_requests_images_and_batches(checkpoint_file, monkeypatch):
    reads, read = [], Metrics.samples
    monkeypatch.setattr(Metrics, "samples", lambda metrics: reads.append(metrics) or read(metrics))
    with (
        listening(config(checkpoint_file, f"other={checkpoint_file}")) as address,
        triton.InferenceServerClient(address) as client,
    ):
        before = client.get_inference_statistics("animals")["model_stats"][0]
        assert before["inference_count"] == before["execution_count"] == before["last_inference"] == 0
        client.infer("animals", [input_of("encoded", np.array(IMAGES[:3], dtype=object), "BYTES")])
        client.infer("animals", [input_of("image", np.zeros((1, 3, 24, 24), np.float32), "FP32")])
        with pytest.raises(Exception, match="format"):
            client.infer("animals", [input_of("encoded", np.array([b"no image"], dtype=object), "BYTES")])
        (found,) = client.get_inference_statistics("animals")["model_stats"]
        assert found == client.get_inference_statistics("animals", found["version"])["model_stats"][0]
        counts = {stage: duration["count"] for stage, duration in found["inference_stats"].items()}
        reads.clear()
        both = client.get_inference_statistics()["model_stats"]
    assert len(reads) == 1, "the metrics of all workers are read once, not for each model"
    expected = {"success": 2, "fail": 1, "queue": 4, "compute_input": 3, "compute_infer": 4, "compute_output": 0}
    assert counts == expected and found["inference_count"] == 4 and 2 <= found["execution_count"] <= 4
    times = {stage: duration["ns"] for stage, duration in found["inference_stats"].items()}
    assert all(isinstance(ns, int) and (ns > 0) == (counts[stage] > 0) for stage, ns in times.items())
    assert times["compute_infer"] > found["execution_count"] and found["last_inference"] > 1.7e12
    assert [one["name"] for one in both] == ["animals", "other"] and both[1]["inference_count"] == 0


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers(client, predictor, images, algorithm):
    found = client.infer(
        "animals",
        [input_of("image", images, "FP32")],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    expected = predictor.probabilities(torch.from_numpy(images)).numpy()
    assert np.allclose(found.as_numpy("probabilities"), expected, atol=1e-5)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_images_in_probabilities_out(client, predictor, images, binary_in, binary_out):
    wanted = None if binary_out is None else [triton.InferRequestedOutput("probabilities", binary_data=binary_out)]
    found = client.infer(
        "animals", [input_of("image", images, "FP32", binary=binary_in)], outputs=wanted, request_id="7"
    )
    expected = predictor.probabilities(torch.from_numpy(images)).numpy()
    assert np.allclose(found.as_numpy("probabilities"), expected, atol=1e-5)
    said = found.get_response()
    assert (said["id"], said["model_name"]) == ("7", "animals")
    assert ("data" in said["outputs"][0]) == (binary_out is False)


def test_image_files_in_classes_out(client, predictor):
    files = np.array(IMAGES, dtype=object)
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    found = client.infer("second", [input_of("encoded", files, "BYTES")], outputs=wanted).as_numpy("probabilities")
    assert found.shape == (len(IMAGES), 2)
    for texts, prediction in zip(found, predictor(IMAGES, top_k=2), strict=True):
        for text, scored in zip(texts, prediction.classes, strict=True):
            value, index, name = text.decode().split(":")
            assert name == scored.name == predictor.classes[int(index)]
            assert abs(float(value) - scored.probability) < 1e-5


def test_image_files_of_the_shape_that_the_configuration_gives(client):
    described = client.get_model_config("animals")
    (dims,) = [one["dims"] for one in described["input"] if one["name"] == "encoded"]
    assert dims == [1] and described["max_batch_size"] == 12
    files = np.array(IMAGES[:3], dtype=object)
    flat, column = (
        client.infer("animals", [input_of("encoded", values, "BYTES")]).as_numpy("probabilities")
        for values in (files, files[:, None])
    )
    assert flat.shape == (3, 3) and np.allclose(flat, column, atol=1e-5)
    for wrong in (files[None], files[:, None, None]):
        with pytest.raises(Exception, match="allowed: "):
            client.infer("animals", [input_of("encoded", wrong, "BYTES")])


@pytest.mark.seconds
def test_many_threads_get_their_own_answers(address, predictor, images):
    expected = predictor.probabilities(torch.from_numpy(images)).numpy()
    with triton.InferenceServerClient(address, concurrency=8) as client:
        numbers = np.random.default_rng(0).integers(0, len(images), 200)
        asked = [client.async_infer("animals", [input_of("image", images[[n]], "FP32")]) for n in numbers]
        answers = [one.get_result().as_numpy("probabilities")[0] for one in asked]
    assert np.allclose(answers, expected[numbers], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "datatype", "shape"),
    [
        ("image", "FP32", (1, 3, 24, 25)),
        ("image", "FP32", (3, 24, 24)),
        ("image", "FP32", (0, 3, 24, 24)),
        ("image", "FP32", (13, 3, 24, 24)),
        ("image", "FP64", (1, 3, 24, 24)),
        ("pixels", "FP32", (1, 3, 24, 24)),
    ],
)
def test_other_tensors_are_refused_in_one_sentence(client, name, datatype, shape):
    values = np.zeros(shape, triton_dtype(datatype))
    for binary in (True, False):
        with pytest.raises(Exception, match="allowed: ") as caught:
            client.infer("animals", [input_of(name, values, datatype, binary=binary)])
        assert caught.type.__name__ == "InferenceServerException"


def triton_dtype(datatype):
    return {"FP32": np.float32, "FP64": np.float64}[datatype]


def test_other_models_versions_and_outputs_are_refused(client, images):
    tensor = input_of("image", images[:1], "FP32")
    for arguments, said in (
        ({"model_name": "nothing"}, "allowed: animals, second"),
        ({"model_name": "animals", "model_version": "1"}, "no version '1'"),
        ({"model_name": "animals", "outputs": [triton.InferRequestedOutput("logits")]}, "no output 'logits'"),
    ):
        with pytest.raises(Exception, match=said):
            client.infer(inputs=[tensor], **arguments)


def test_null_parameters_count_as_absent(memory):
    def ask(**parameters):
        content = {"inputs": [good(**parameters)], "outputs": [{"name": "probabilities", **parameters}], **parameters}
        return memory.post("/v2/models/animals/infer", json=content)

    answer = ask(parameters=None)
    assert answer.status_code == 200 and answer.json() == ask().json() == ask(parameters={}).json()


def good(**more):
    return {"name": "image", "datatype": "FP32", "shape": [1, 3, 24, 24], "data": [0.0] * 1728, **more}


@pytest.mark.parametrize(
    "request_json",
    [
        None,
        [],
        {},
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": [good()] * 17},
        {"inputs": [good(), good()]},
        {"inputs": [good(), {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["eA=="]}]},
        {"inputs": [good(data=None)]},
        {"inputs": [good(data=[0.0] * 1727)]},
        {"inputs": [good(data=["0.0"] * 1728)]},
        {"inputs": [good(data=[True] * 1728)]},
        {"inputs": [good(data=[[0.0], 0.0] * 864)]},
        {"inputs": [good(data=[10**400] * 1728)]},
        {"inputs": [good(data={"a": 1})]},
        {"inputs": [good(shape=[1, 3, 24, 24.0])]},
        {"inputs": [good(shape=[True, 3, 24, 24])]},
        {"inputs": [good(shape="1")]},
        {"inputs": [good(shape=[10**30, 3, 24, 24])]},
        {"inputs": [good(shape=[-1, 3, 24, 24])]},
        {"inputs": [good(datatype=None)]},
        {"inputs": [good(parameters=[])]},
        {"inputs": [good(parameters={"binary_data_size": 1})]},
        {"inputs": [good(parameters={"binary_data_size": True})]},
        {"inputs": [good(parameters={"binary_data_size": -1})]},
        {"inputs": [good(parameters={"shared_memory_region": "x"})]},
        {"inputs": [good()], "parameters": {"binary_data_output": "yes"}},
        {"inputs": [good()], "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        {"inputs": [good()], "outputs": [{"name": "probabilities", "parameters": {"classification": 1.5}}]},
        {"inputs": [good()], "outputs": {"name": "probabilities"}},
        {"inputs": [good()], "id": 7},
        {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%%%"]}]},
        {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [2], "data": ["eA=="]}]},
        {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [7]}]},
        {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["ü"]}]},
    ],
)
def test_malformed_requests_are_refused(memory, request_json):
    answer = memory.post("/v2/models/animals/infer", content=json.dumps(request_json))
    assert answer.status_code in (400, 415) and answer.json()["error"], answer.text


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"inputs": [NaN]}', None),
        (b"9" * 10_000, None),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "x"),
        (b"{}", "9" * 40),
        (b"{}rest", "2"),
        (json.dumps({"inputs": [good()]}).encode() + b"rest", None),
        (json.dumps({"inputs": [good(data=[float("nan")] * 1728)]}).encode(), None),
        (json.dumps({"inputs": [good(data=[1e39] * 1728)]}).encode(), None),
    ],
)
def test_malformed_bytes_are_refused(memory, body, length):
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = memory.post("/v2/models/animals/infer", content=body, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"], answer.text


@pytest.mark.parametrize("items", [b"", b"\1", b"\5\0\0\0abc", b"\1\0\0\0ab", b"\xff\xff\xff\xff", bytes(8)])
def test_items_that_contradict_their_lengths_are_refused(memory, items):
    described = {"name": "encoded", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(items)}}
    header = json.dumps({"inputs": [described]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    assert memory.post("/v2/models/animals/infer", content=header + items, headers=headers).status_code == 400


def test_ids_of_any_text_are_returned(memory):
    for number in ("\ud800", "ü\0\n", "x" * 1000):
        content = json.dumps({"inputs": [good()], "id": number})
        assert memory.post("/v2/models/animals/infer", content=content).json()["id"] == number


@pytest.fixture(scope="module")
def memory(checkpoint_file):
    with in_memory(config(checkpoint_file, max_images=4)) as client:
        yield client


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("suffix", "pixels", "engine"),
    [(".onnx", False, "onnxruntime"), (".onnx", True, "onnxruntime"), (".xml", True, "openvino")],
)
def test_exported_files_answer_alike(checkpoint_file, predictor, tmp_path, suffix, pixels, engine):
    pytest.importorskip(engine)
    model = rexnet.load(checkpoint_file)
    facts = ExportedFile(
        classes=model.classes, preprocess=model.preprocess, config=model.config, pixels=pixels, output="logits"
    )
    path = tmp_path / f"graph{suffix}"
    write_graph(onnx_graph(fold(model), pixels=model.preprocess if pixels else None), facts.to_dict(), path)
    image = open_image(IMAGES[0])
    with in_memory(config(path, backend=engine, max_batch=2)) as client:
        described = client.get("/v2/models/graph").json()["inputs"][0]
        assert described["datatype"] == ("UINT8" if pixels else "FP32")
        values = model.preprocess.pixels(image) if pixels else model.preprocess(image)
        tensor = {**described, "shape": [1, *values.shape], "data": [values.tolist()]}
        answer = client.post("/v2/models/graph/infer", json={"inputs": [tensor]}).json()
    expected = [scored.probability for scored in sorted(predictor(IMAGES[0])[0].classes, key=lambda s: s.name)]
    assert np.allclose(answer["outputs"][0]["data"], expected, atol=1e-4)


def test_numbers_out_of_range_of_bytes_are_refused():
    from rexnet.serve.http_errors import HTTPError
    from rexnet.serve.tensors import TensorSpec, from_json

    spec = TensorSpec(name="image", datatype="UINT8", shape=(-1, 2))
    assert from_json([[0, 255]], spec, (1, 2)).tolist() == [[0, 255]]
    for wrong in ([[0, 256]], [[-1, 0]], [[0.5, 0]]):
        with pytest.raises(HTTPError):
            from_json(wrong, spec, (1, 2))
