import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rexnet.engines.backends import is_installed, open_graph, open_network, trace_network
from rexnet.engines.config import PRECISIONS, Engine
from rexnet.engines.native import library
from rexnet.models.factory import create_model
from rexnet.models.rexnet import RexNet
from tests.networks import image_batch, need_engine, with_trained_norms

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("backend", "precision"), [(b, p) for b, ps in PRECISIONS.items() if b != "compile" for p in ps]
)
def test_logits_are_those_of_the_network_for_any_batch_and_from_many_threads(backend, precision):
    need_engine(backend, precision)
    torch.manual_seed(0)
    config = create_model("rexnet_050", num_classes=7).config
    # Without training, what bf16 rounds off grows from block to block.
    config = replace(config, blocks=config.blocks[:5]) if precision == "bf16" else config
    model = with_trained_norms(RexNet(config)).train()
    network = open_network(model, Engine(backend=backend, precision=precision, threads=1))
    assert model.training
    batches = [image_batch(size)[:batch] for batch, size in ((1, 64), (2, 64), (5, 96))] * 4
    with torch.inference_mode():
        expected = [model.eval()(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, batches))
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    for logits, right in zip(found, expected, strict=True):
        torch.testing.assert_close(logits, right, rtol=tolerance, atol=tolerance * float(right.abs().max()))


SIGNALS = """
import faulthandler, signal, subprocess, sys
faulthandler.enable()  # as pytest and many services do: signals get a stack of their own
from rexnet.engines.backends import open_network
from rexnet.engines.config import Engine
from rexnet.models.factory import create_model
from tests.networks import image_batch

seen = []
signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
model = create_model("rexnet_030", num_classes=2).eval()
first, second = (open_network(model, Engine(backend="openvino")) for _ in range(2))
for network in (first, second):
    network(image_batch(32)[:1])
del network, first
del second
subprocess.run([sys.executable, "-c", ""])
print(bool(seen))
"""


def test_a_process_survives_signals_after_two_openvino_networks():
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_graph_of_one_image_takes_a_batch():
    import onnx

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 2))
    graph = onnx.load_from_string(trace_network(network, size_px=4))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    run = open_graph(graph.SerializeToString(), Engine(backend="onnxruntime"))
    images = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(run(images), network(images).detach(), rtol=1e-5, atol=1e-5)


def test_requests_beyond_an_engines_abilities_are_refused():
    with pytest.raises(ValueError, match="precision is 'bf16'; onnxruntime computes in fp32 here"):
        Engine(backend="onnxruntime", precision="bf16")
    with pytest.raises(ValueError, match="backend is 'tvm'; allowed: torch, compile, onnxruntime, openvino, native"):
        Engine(backend="tvm")
    with pytest.raises(ValueError, match="threads is 0; allowed: 1 or more"):
        Engine(threads=0)
    with pytest.raises(ValueError, match="openvino runs on the CPU here, but the device is meta"):
        open_network(create_model("rexnet_050"), Engine(backend="openvino"), device="meta")
    with pytest.raises(ValueError, match="native runs on the CPU here, but the device is meta"):
        open_network(create_model("rexnet_050"), Engine(backend="native"), device="meta")
    with pytest.raises(ValueError, match=r"native runs ReXNets only; allowed .*: torch, .*openvino$"):
        open_network(torch.nn.Flatten(), Engine(backend="native"))


def test_a_missing_native_engine_is_one_sentence(monkeypatch):
    monkeypatch.delenv("REXNET_NATIVE", raising=False)
    monkeypatch.setattr(library, "_file", lambda: None)
    assert not is_installed("native", "fp32") and is_installed("torch", "bf16")
    with pytest.raises(ValueError, match=r"^the native engine does not run here: it is not compiled, .*g\+\+"):
        open_network(create_model("rexnet_050"), Engine(backend="native"))


def test_calls_at_once_take_a_thread_each():
    need_engine("native")
    threads = []
    model = create_model("rexnet_020", num_classes=3).eval()
    for engine in (Engine(backend="native", threads=4), Engine(backend="native", threads=4, calls=4)):
        before = len(os.listdir("/proc/self/task"))
        network = open_network(model, engine)
        network(image_batch(32))
        threads.append(len(os.listdir("/proc/self/task")) - before)
        del network
    assert threads == [3, 0], "those beside the caller's"
