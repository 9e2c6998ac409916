"""The graph in the engines that people use, against PyTorch."""

import numpy as np
import onnx
import pytest
import torch

from rexnet.engines.backends import open_graph, open_network
from rexnet.engines.config import Engine
from rexnet.engines.onnx_graph import onnx_graph, read_network
from rexnet.errors import WeightsError
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold, pad
from tests.networks import image_batch, need_engine, with_measured_statistics, with_trained_norms

NAMES = ("rexnet_020", "rexnetr_020", "rexnet_lite_020", "rexnet_037", "rexnet_plain")


@pytest.mark.seconds
@pytest.mark.parametrize("name", NAMES)
def test_every_family_at_any_batch_and_size_in_both_engines(name, tmp_path):
    torch.manual_seed(0)
    model = with_measured_statistics(create_model(name, num_classes=7))
    network = fold(model if name == "rexnet_037" else pad(model, 8))
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_graph(network).SerializeToString())
    runs = [
        open_graph(path, Engine(backend=backend), any_shape=any_shape).run
        for backend, any_shape in (("onnxruntime", True), ("openvino", True), ("openvino", False))
    ]
    for height, width in ((48, 48), (80, 61)):
        images = image_batch(80)[:, :, :height, :width]
        with torch.inference_mode():
            expected = model(images.clone()).numpy()
        spread = np.abs(expected - expected.mean(0)).max()
        assert spread > 0.1 * np.abs(expected).max(), "or equality would say nothing about the images"
        for run in runs:
            for batch in (1, 2, 5):
                (found,) = run(images[:batch].contiguous().numpy())
                assert found.shape == (batch, 7)
                np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-3 * spread)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", ["logits", "embedding"])
def test_a_file_is_read_back_and_runs_natively(name, output, tmp_path):
    torch.manual_seed(0)
    model = with_trained_norms(create_model(name, num_classes=7))
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_graph(fold(pad(model, 8)), output=output).SerializeToString())
    images = image_batch(64)
    expected = open_graph(path, Engine(backend="onnxruntime"))(images)
    read = read_network(path, model.config, output=output)
    network = read.model
    assert read.scales == {}
    own = network if output == "logits" else lambda x: network.forward_head(network.forward_features(x))
    scale = float(expected.abs().max())
    with torch.inference_mode():
        torch.testing.assert_close(own(images.clone()), expected, rtol=0, atol=1e-4 * scale)
    need_engine("native")
    native = open_network(network, Engine(backend="native", threads=2))
    torch.testing.assert_close(native(images), expected, rtol=0, atol=1e-4 * scale)


def test_weights_of_another_network_are_not_read_back(tiny_model, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_graph(fold(tiny_model())).SerializeToString())
    for name in ("rexnet_100", "rexnet_lite_010"):
        with pytest.raises(WeightsError, match=rf"a\.onnx' cannot be read back: the weights are not those of {name}"):
            read_network(path, create_model(name).config)


@pytest.mark.parametrize(("inputs", "weights"), [("int8", 0), ("uint8", 3)])
def test_int8_of_another_scheme_is_not_read_back(inputs, weights, tiny_model, tmp_path):
    model, path = tiny_model(), tmp_path / "a.onnx"
    made = onnx_graph(fold(model))
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    values = {"scale": np.float32(1), "in.zero": np.dtype(inputs).type(0), "zero": np.int8(weights)}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), name) for name, v in values.items())
    for index, zero in enumerate(("in.zero", "zero")):
        step = onnx.helper.make_node("DequantizeLinear", [conv.input[index], "scale", zero], [f"step.{index}"])
        made.graph.node.append(step)
        conv.input[index] = f"step.{index}"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(WeightsError, match="signed inputs or weights with a zero point"):
        read_network(path, model.config)


def test_max_pooling_is_read_back(tmp_path):
    model = create_model("rexnet_010", num_classes=3)
    model.reset_classifier(3, "max")
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx_graph(fold(model)).SerializeToString())
    assert read_network(path, model.config).model.global_pool == "max"


def test_other_layers_and_outputs_are_refused(tiny_model):
    model = tiny_model()
    with pytest.raises(TypeError, match=r"features\.1 is a BatchNorm2d, for which there is no ONNX node"):
        onnx_graph(model)
    with pytest.raises(ValueError, match="output is 'probabilities'; allowed: logits, embedding, features"):
        onnx_graph(fold(model), output="probabilities")


def test_maps_of_a_dilated_network_and_max_pooling_are_those_of_the_network(tmp_path):
    torch.manual_seed(0)
    model = fold(with_measured_statistics(create_model("rexnet_020", num_classes=3, output_stride=8)))
    model.reset_classifier(3, "max")
    images = image_batch(64)
    with torch.inference_mode():
        expected = {"features": list(model.feature_maps(images).values()), "logits": [model(images.clone())]}
    for output, tensors in expected.items():
        path = tmp_path / f"{output}.onnx"
        path.write_bytes(onnx_graph(model, output=output).SerializeToString())
        found = open_graph(path, Engine(backend="onnxruntime"), any_shape=True).run(images.numpy())
        for own, other in zip(found, tensors, strict=True):
            np.testing.assert_allclose(own, other.numpy(), rtol=1e-3, atol=1e-4 * float(other.abs().max()))
