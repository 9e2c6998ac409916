"""The native engine against PyTorch."""

import gc
import os
import platform
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from rexnet.engines.native import library
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import NativeNetwork
from rexnet.engines.onnx_graph import Int8Scales
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from tests.networks import with_trained_norms

MASKS = {"": ("fp32", "bf16"), "avx2": ("fp32",)}


@pytest.fixture(params=[(mask, precision) for mask, precisions in MASKS.items() for precision in precisions])
def precision(request, monkeypatch):
    mask, precision = request.param
    monkeypatch.setenv("REXNET_ISA", mask)
    if reason := why_missing(precision):
        pytest.skip(reason)
    return precision


@pytest.fixture
def engine():
    if reason := why_missing():
        pytest.skip(reason)


@pytest.fixture
def network(engine):
    return NativeNetwork(trained("rexnet_050", num_classes=5), threads=3)


def trained(model, **options):
    torch.manual_seed(0)
    made = create_model(model, **options) if isinstance(model, str) else RexNet(model)
    return with_trained_norms(made).eval()


def check(found, expected, of_bf16):
    """`of_bf16`: None in fp32, else what PyTorch finds in bf16, whose error is the measure of ours."""
    assert found.shape == expected.shape
    if of_bf16 is None:
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    else:
        assert (found - expected).norm() <= 2 * (of_bf16.float() - expected).norm() + 0.005 * expected.norm()


@torch.inference_mode()
def compute(function, model, given, precision):
    """Return `function(model, images)` in fp32 and, for bf16, as PyTorch computes it in bf16."""
    low = deepcopy(model).bfloat16()
    return function(model, given), function(low, given.bfloat16()) if precision == "bf16" else None


def images(batch=2, channels=3, size=(64, 64), seed=0):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def bottlenecks(*blocks, **config):
    """A network of few blocks, as search, study and strangers make them."""
    return RexNetConfig(name="odd", blocks=blocks, num_classes=3, penultimate_channels=70, **config)


ODD = {
    "kernel 5": bottlenecks(BlockSpec(in_channels=32, expanded_channels=50, out_channels=20, kernel_size=5, stride=2)),
    "dilation 2": bottlenecks(
        BlockSpec(in_channels=32, expanded_channels=90, out_channels=33, dilation=2, se_channels=3)
    ),
    "stride 3": bottlenecks(BlockSpec(in_channels=32, expanded_channels=40, out_channels=40, stride=3)),
    "partial shortcut": bottlenecks(
        BlockSpec(in_channels=27, expanded_channels=90, out_channels=39, shortcut=True, se_channels=5),
        BlockSpec(in_channels=39, expanded_channels=39, out_channels=39, shortcut=True),
        stem_channels=27,
    ),
    "many channels": bottlenecks(BlockSpec(in_channels=8, expanded_channels=700, out_channels=200), stem_channels=8),
    **{
        name: bottlenecks(
            BlockSpec(
                in_channels=32,
                expanded_channels=64,
                out_channels=24,
                expand_activation=name,
                depthwise_activation=name,
                out_activation=name,
            ),
            activation=name,
        )
        for name in ("identity", "relu", "leaky_relu", "elu", "softplus", "hardswish", "silu")
    },
}
NETWORKS = {
    "V1": lambda: trained("rexnet_100", num_classes=1000),
    "narrow": lambda: trained("rexnet_037", num_classes=1),
    "unrounded": lambda: trained("rexnet_113", num_classes=17),
    "rounded": lambda: trained("rexnetr_100", num_classes=7),
    "lite": lambda: trained("rexnet_lite_100", num_classes=19),
    "plain": lambda: trained("rexnet_plain", num_classes=9),
    "without classes": lambda: trained("rexnet_050", num_classes=0),
    "lite without classes": lambda: trained("rexnet_lite_100", num_classes=0),
    "gray": lambda: trained("rexnet_050", num_classes=3, in_channels=1),
    "five channels, stem stride 1": lambda: trained("rexnet_050", num_classes=3, in_channels=5, stem_stride=1),
    **{name: (lambda config=config: trained(config)) for name, config in ODD.items()},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_pytorchs_for_any_threads_and_batch(name, precision):
    model = NETWORKS[name]()
    by_threads = [NativeNetwork(model, precision=precision, threads=threads) for threads in (1, 2, 5)]
    for size in ((64, 64), (32, 32), (45, 83)):
        given = images(3, model.config.in_channels, size)
        expected = compute(RexNet.forward, model, given, precision)
        found = [network(given) for network in by_threads]
        found.append(torch.cat([by_threads[1](given[index : index + 1]) for index in range(3)]))
        assert all(torch.equal(found[0], each) for each in found)
        check(found[0], *expected)


@pytest.mark.seconds
@pytest.mark.parametrize("size", [(224, 224), (224, 320), (33, 500), (1, 1)])
def test_any_size(size, precision):
    model = trained("rexnet_100", num_classes=11)
    given = images(1, size=size)
    expected = compute(RexNet.forward, model, given, precision)
    check(NativeNetwork(model, precision=precision, threads=2)(given), *expected)


def scales_of(model, given):
    """Scales for the range of each convolution's inputs on `given`, as `rexnet quantize` chooses them."""
    found = {}

    def look(name, layer, inputs):
        low, high = min(float(inputs[0].min()), 0.0), max(float(inputs[0].max()), 1e-3)
        step = (high - low) / 255
        weights = layer.weight.flatten(1).abs().amax(dim=1).clamp(min=1e-6) / 127
        found[name] = Int8Scales(input_scale=step, input_zero=round(-low / step), weight_scales=weights)

    hooks = [
        layer.register_forward_pre_hook(partial(look, name))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    model(given)
    for hook in hooks:
        hook.remove()
    return found


def is_of_map(name, layer):
    return name.startswith("features") and layer.kernel_size == (1, 1) and layer.groups == 1 and ".fc." not in name


def in_bytes(model, scales):
    """Return a copy of `model` whose 1x1 convolutions of maps have the weights and read the inputs of int8."""
    model = deepcopy(model)

    def rounded(scale, _, inputs):
        whole = (inputs[0] / scale.input_scale + scale.input_zero).round().clamp(0, 255)
        return ((whole - scale.input_zero) * scale.input_scale,)

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and is_of_map(name, layer):
            step = scales[name].weight_scales.view(-1, 1, 1, 1)
            layer.weight.copy_((layer.weight / step).round() * step)
            layer.register_forward_pre_hook(partial(rounded, scales[name]))
    return model


@torch.inference_mode()
@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_what_pytorch_finds_with_rounded_inputs_and_weights(name):
    if reason := why_missing("int8"):
        pytest.skip(reason)
    model = fold(NETWORKS[name]())
    channels = model.config.in_channels
    scales = scales_of(model, images(3, channels, seed=1))
    by_threads = [NativeNetwork(model, precision="int8", threads=threads, scales=scales) for threads in (1, 2, 5)]
    for size in ((64, 64), (32, 32), (45, 83)):
        given = images(3, channels, size)
        found = [network(given) for network in by_threads]
        found.append(torch.cat([by_threads[1](given[index : index + 1]) for index in range(3)]))
        assert all(torch.equal(found[0], each) for each in found)
        rounded = in_bytes(model, scales)
        # All else is computed in bf16, and a value that it moves across a boundary of bytes moves by a whole step.
        of_bf16 = NativeNetwork(model, precision="bf16")(given)
        error = (of_bf16 - model(given)).norm() + (rounded(given) - model(given)).norm()
        assert (found[0] - rounded(given)).norm() <= error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scales": torch.ones(1)}, r"shape \(1,\)"),
        ({"weight_scales": torch.tensor(1.0)}, r"shape \(\)"),
        ({"input_scale": 0.0}, "from 0 to"),
        ({"input_scale": float("nan")}, "nan"),
        ({"input_zero": -128}, "zero point -128; allowed: 0 to 255"),
    ],
)
def test_int8_refuses_scales_that_are_not_of_its_convolution(engine, change, message):
    if reason := why_missing("int8"):
        pytest.skip(reason)
    model = trained("rexnet_050")
    with torch.inference_mode():
        scales = scales_of(model, images(3, 3, seed=1))
    name = [name for name in scales if name.startswith("features")][-1]
    with pytest.raises(ValueError, match=message):
        NativeNetwork(model, precision="int8", scales={**scales, name: replace(scales[name], **change)})


def test_int8_needs_scales(engine):
    if reason := why_missing("int8"):
        pytest.skip(reason)
    with pytest.raises(ValueError, match=r"features\.\d+.*has no int8 scales"):
        NativeNetwork(trained("rexnet_050"), precision="int8")


@pytest.mark.parametrize("model", ["rexnet_050", "rexnet_lite_100"])
def test_feature_maps(model, precision):
    model = trained(model, num_classes=2)
    network = NativeNetwork(model, precision=precision, threads=2)
    for strides in ((4, 8, 16, 32), (8,), (2, 32)):
        for given in (images(1, size=(96, 70)), images(3)):
            maps = partial(RexNet.feature_maps, strides=strides)
            expected, of_bf16 = compute(maps, model, given, precision)
            found = network.feature_maps(given, strides)
            assert found.keys() == expected.keys()
            for stride, right in expected.items():
                check(found[stride], right, of_bf16[stride] if of_bf16 else None)


def test_images_of_any_type_and_order_in_memory(network):
    given = images()
    expected = network(given)
    assert torch.equal(network(given.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(network(given.double()), expected)
    assert torch.equal(network(images(4)[::2].clone().requires_grad_()), network(images(4)[::2]))
    assert network(given[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 0, 32),
        torch.zeros(1, 3, 1, 8193),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_files_that_are_not_images_are_refused_before_decoding(network, wrong):
    with pytest.raises(ValueError, match="images"):
        network(wrong)
    with pytest.raises(ValueError, match="images"):
        network.feature_maps(wrong, [8])


def test_a_stride_that_is_not_there(network):
    with pytest.raises(ValueError, match=r"stride is 64; allowed: 2, 4, 8, 16, 32"):
        network.feature_maps(images(), [8, 64])


def test_networks_that_it_does_not_compute(engine):
    model = create_model("rexnet_050")
    model.reset_classifier(3, "max")
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        NativeNetwork(model)
    block = BlockSpec(in_channels=20, expanded_channels=40, out_channels=30, shortcut=True)
    with pytest.raises(ValueError, match="softplus"):
        NativeNetwork(RexNet(bottlenecks(block, stem_channels=20, activation="softplus")))


def test_calls_from_many_threads_while_models_come_and_go(engine):
    """Each call is right, and memory does not grow."""
    models = [trained("rexnet_030", num_classes=3), trained("rexnet_lite_040", num_classes=4)]
    given = [images(batch, size=size) for batch, size in ((1, (32, 32)), (3, (40, 64)), (5, (64, 64)))]
    kept = [NativeNetwork(model, threads=3) for model in models]
    expected = [[network(each) for each in given] for network in kept]

    def call(number):
        which, what = number % 2, number % 3
        network = NativeNetwork(models[which], threads=2) if number % 7 == 0 else kept[which]
        return torch.equal(network(given[what]), expected[which][what])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))
        gc.collect()
        before = resident_mib()
        assert all(pool.map(call, range(600)))
        gc.collect()
    # The 86 models that were opened in between hold 4 MiB or more each; malloc keeps up to 30 MiB for its threads.
    assert resident_mib() < before + 100


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_close_ends_threads_and_an_idle_network_uses_no_processor(network):
    given = images()
    network(given)
    time.sleep(0.2)
    began = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - began < 0.2  # a thread that waits actively takes a second
    threads = len(os.listdir("/proc/self/task"))
    network.close()
    assert len(os.listdir("/proc/self/task")) == threads - 2
    with pytest.raises(ValueError, match="closed"):
        network(given)


def test_no_maps_and_impossible_threads(network):
    assert network.feature_maps(images(), []) == {}
    for threads in (0, -1):
        with pytest.raises(ValueError, match=f"threads is {threads}; allowed: 1 or more"):
            NativeNetwork(trained("rexnet_030"), threads=threads)


def test_closing_waits_for_the_calls_of_other_threads(network):
    given, failed = images(9), []
    expected = network(given)

    def call():
        try:
            while torch.equal(network(given), expected):
                pass
            failed.append("another result")
        except ValueError as error:
            failed.extend([] if "closed" in str(error) else [str(error)])

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    network(given)
    network.close()
    for each in callers:
        each.join(60)
    assert failed == [] and not any(each.is_alive() for each in callers)


def test_a_child_process_makes_threads_of_its_own(network):
    given = images(7)
    expected = network(given)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            network(given)

    busy = threading.Thread(target=keep_busy)  # so that the child inherits locks that another thread holds
    busy.start()
    try:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if torch.equal(network(given), expected) and torch.equal(network(given), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        busy.join()


def test_the_micro_kernel_counts_its_work(network):
    one = network.run_peak(1)
    assert one > 0 and network.run_peak(7) == 7 * one


def test_memory_is_stated(engine):
    network = NativeNetwork(trained("rexnet_050"), threads=1)
    weights = network.memory_bytes
    network(images(1, size=(32, 32)))
    small = network.memory_bytes
    network(images(1, size=(224, 224)))
    large = network.memory_bytes
    network(images(1, size=(32, 32)))
    assert 0 < weights < small < large and network.memory_bytes == small


@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="it is for Linux on x86-64")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_it_is_compiled_where_a_compiler_is(monkeypatch):
    """Its other tests are skipped without it: this one tells a compilation that failed."""
    monkeypatch.delenv("REXNET_NATIVE", raising=False)
    assert "not compiled" not in (why_missing() or "")


def test_a_library_of_other_sources_is_not_used(engine, monkeypatch):
    monkeypatch.setattr(library, "_INTERFACE", 99)
    assert "compiled from other sources (interface 2, not 99)" in (why_missing() or "")
    with pytest.raises(ValueError, match="compiled from other sources"):
        NativeNetwork(create_model("rexnet_050"))


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("REXNET_NATIVE", "0")
    assert why_missing() == "REXNET_NATIVE is 0"
    with pytest.raises(ValueError, match="REXNET_NATIVE is 0"):
        NativeNetwork(create_model("rexnet_050"))


def test_masked_instructions_are_not_used(engine, monkeypatch):
    monkeypatch.setenv("REXNET_ISA", "avx2")
    assert "no AVX-512 with bf16, or REXNET_ISA hides it" in (why_missing("bf16") or "")
    monkeypatch.setenv("REXNET_ISA", "avx3")
    with pytest.raises(ValueError, match="REXNET_ISA is 'avx3'; allowed: avx2"):
        why_missing()
