"""The official networks and what timm models can do, on ours."""

import copy
import importlib
import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import rexnet
import rexnetv1
import rexnetv1_lite
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet

CASES = range(5)


@pytest.fixture(scope="module")
def oracle(shared):
    spec = importlib.util.spec_from_file_location("fill", shared / "oracle" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    cases = json.loads((shared / "oracle" / "reference.json").read_text())
    assert [case["id"] for case in cases] == list(CASES)
    return fill, cases, np.load(shared / "oracle" / "reference.npz")


def build_official(case):
    module, name = case["kind"].split(".")
    return getattr(importlib.import_module(module), name)(**case["kwargs"])


def relative_gap(ours, reference):
    ours, reference = np.asarray(ours), np.asarray(reference)
    return np.abs(ours - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("index", CASES)
def test_keys_shapes_and_cost_are_the_official_ones(oracle, index):
    case = oracle[1][index]
    model = build_official(case)
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == case["state_dict"]
    cost = measure_cost(model)
    assert (cost.parameters, cost.macs) == (case["params"], case["macs"])


@pytest.mark.parametrize("index", CASES)
def test_logits_and_features_are_the_official_ones(oracle, index):
    fill, cases, reference = oracle
    case = cases[index]
    model = build_official(case).eval()
    fill.fill(model.state_dict())
    images = fill.image(case["batch"], case["size"])
    with torch.no_grad():
        assert relative_gap(model(images), reference[f"{index}_logits"]) < 1e-4
        features = model.extract_features(images).mean((2, 3))
    assert relative_gap(features, reference[f"{index}_features_mean"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("index", CASES)
def test_one_training_step_is_the_official_one(oracle, index):
    fill, cases, _ = oracle
    case = cases[index]
    model = build_official(case)
    fill.fill(model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = model.double().train()
    logits = model(fill.image(case["batch"], case["size"]).double())
    loss = nn.functional.cross_entropy(logits, torch.arange(case["batch"]))
    loss.backward()
    assert loss.item() == pytest.approx(case["train_loss"], rel=1e-5)
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms.keys() == case["grad_norms"].keys()
    largest = max(case["grad_norms"].values())
    # A bias before a batch norm has only rounding noise for a gradient, to be compared on the largest's scale.
    assert norms == pytest.approx(case["grad_norms"], rel=1e-5, abs=1e-14 * largest)


def test_drop_in_modules_keep_the_official_interface():
    model = rexnetv1.ReXNetV1(width_mult=1.0)
    model.output[1] = nn.Conv2d(1280, 50, 1)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 50)
    assert model.num_classes == 50
    model.eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 50), "one image keeps its batch axis"
    assert model.features(torch.randn(2, 3, 64, 64)).shape == (2, 1280, 1, 1), "the official features end pooled"
    assert model.extract_features(torch.randn(2, 3, 64, 64)).shape == (2, 1280, 2, 2)
    lite = rexnetv1_lite.ReXNetV1_lite(classes=7).eval()
    assert lite(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    assert lite.features(torch.randn(2, 3, 64, 64)).shape == (2, 1280, 2, 2)


def widths(model):
    return [block.spec.out_channels for block in model.features if hasattr(block, "spec")]


@pytest.mark.parametrize(
    ("arguments", "first", "last", "num_blocks", "parameters"),
    [
        # Sums worked out by hand from the official formula, not by this code.
        ({"depth_mult": 2.0}, 16, 190, 32, None),
        ({"input_ch": 24, "final_ch": 96}, 24, 114, 16, None),
        ({"use_se": False}, 16, 185, 16, 3_529_589),
        ({"width_mult": 0.5}, 16, 100, 16, None),
    ],
)
def test_v1_arguments(arguments, first, last, num_blocks, parameters):
    model = rexnetv1.ReXNetV1(**arguments)
    channels = widths(model)
    assert (channels[0], channels[-1], len(channels)) == (first, last, num_blocks)
    assert channels == sorted(channels)
    assert arguments.get("use_se", True) == any(".fc." in key for key in model.state_dict())
    if parameters is not None:
        se = sum(p.numel() for key, p in rexnetv1.ReXNetV1().named_parameters() if ".fc." in key)
        assert sum(p.numel() for p in model.parameters()) == 4_796_873 - se
    assert model.eval()(torch.randn(1, 3, 33, 47)).shape == (1, 1000)


def test_v1_se_ratio_and_dead_bn_momentum():
    model = rexnetv1.ReXNetV1(se_ratio=4, bn_momentum=0.5, dropout_ratio=0.4)
    gate = model.state_dict()["features.6.out.5.fc.0.weight"]
    assert gate.shape == (228 // 4, 228, 1, 1)
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    assert model.output[0].p == 0.4


def test_lite_arguments():
    fixed = rexnetv1_lite.ReXNetV1_lite(fix_head_stem=True, multiplier=2.0)
    assert (fixed.features[0].out_channels, fixed.num_features) == (32, 1280)
    free = rexnetv1_lite.ReXNetV1_lite(multiplier=2.0)
    assert (free.features[0].out_channels, free.num_features) == (64, 2560)
    kernels = rexnetv1_lite.ReXNetV1_lite(kernel_conf="335757")
    sizes = [block.spec.kernel_size for block in kernels.features if hasattr(block, "spec")]
    assert sizes == [3, 3, 3, 5, 5, 7, 7, 7, 5, 5, 5, 7, 7, 7, 7, 7]
    assert kernels.eval()(torch.randn(1, 3, 40, 40)).shape == (1, 1000)
    undivided = rexnetv1_lite.ReXNetV1_lite(divisible_value=0, multiplier=1.1)
    assert any(channels % 8 for channels in widths(undivided))
    norms = {
        (m.momentum, m.eps)
        for m in rexnetv1_lite.ReXNetV1_lite(bn_momentum=0.3, bn_eps=1e-3).modules()
        if isinstance(m, nn.BatchNorm2d)
    }
    assert norms == {(0.3, 1e-3)}


def test_feature_maps_by_stride_and_by_index():
    model = rexnet.create_model("rexnet_100", num_classes=3).eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        narrow = model.feature_maps(images)
        assert {stride: (m.shape[1], m.shape[2], m.shape[3]) for stride, m in narrow.items()} == {
            4: (38, 24, 16),
            8: (61, 12, 8),
            16: (128, 6, 4),
            32: (185, 3, 2),
        }
        expanded = model.feature_maps(images, expanded=True)
        assert {stride: m.shape[1] for stride, m in expanded.items()} == {4: 228, 8: 366, 16: 768, 32: 1280}
        assert {stride: m.shape[2:] for stride, m in expanded.items()} == {s: m.shape[2:] for s, m in narrow.items()}
        assert torch.equal(expanded[32], model.forward_features(images))
        final, every = model.forward_intermediates(images)
        assert [m.shape[1] for m in every] == [16, 38, 61, 128, 185]
        assert torch.equal(final, model.forward_features(images))
        backwards = model.forward_intermediates(images, [-1, 1], intermediates_only=True)
        assert torch.equal(backwards[0], every[4]) and torch.equal(backwards[1], every[1])
        last_two = model.forward_intermediates(images, 2, intermediates_only=True, stop_early=True)
        assert torch.equal(last_two[0], every[3]) and len(last_two) == 2
    with pytest.raises(ValueError, match=r"no feature map of stride 64; it has \[2, 4, 8, 16, 32\]"):
        model.feature_maps(images, (4, 64))
    with pytest.raises(ValueError, match=r"no feature map 5; it has 0 \(stride 2\)"):
        model.forward_intermediates(images, [5])
    with pytest.raises(ValueError, match="6 feature maps requested; rexnet_100 has 5"):
        model.forward_intermediates(images, 6)


@pytest.mark.parametrize("name", rexnet.list_models())
def test_declared_feature_info_matches_the_outputs(name):
    model = rexnet.create_model(name, num_classes=2).eval()
    with torch.no_grad():
        for expanded in (False, True):
            maps = model.forward_intermediates(torch.randn(1, 3, 65, 97), intermediates_only=True, expanded=expanded)
            for level, feature in zip(model.feature_levels, maps, strict=True):
                channels = level.expanded_channels if expanded else level.channels
                height, width = -(-65 // level.stride), -(-97 // level.stride)
                assert feature.shape == (1, channels, height, width)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["rexnet_lite_100", "rexnet_plain"])
def test_dilated_output_holds_the_strided_one(name, output_stride):
    """Without squeeze-excitation, which pools the map, a dilated network has the same values on a finer grid."""
    torch.manual_seed(0)
    strided = rexnet.create_model(name, num_classes=2).eval()
    dilated = rexnet.create_model(name, num_classes=2, output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        coarse, fine = strided.forward_features(images), dilated.forward_features(images)
    step = 32 // output_stride
    assert dilated.config.output_stride == output_stride
    assert fine.shape[-1] == coarse.shape[-1] * step
    assert torch.allclose(fine[..., ::step, ::step], coarse, atol=1e-4 * coarse.abs().max())


def test_stem_stride_one_is_for_small_images():
    model = rexnet.create_model("rexnet_100", stem_stride=1).eval()
    assert [level.stride for level in model.feature_levels] == [1, 2, 4, 8, 16]
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape[-1] == 2


def test_the_head_follows_timms_interface():
    model = rexnet.create_model("rexnet_lite_100", num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    features = model.forward_features(images)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size) == (2, 1024)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.get_classifier().out_channels == model.num_classes == model.config.num_classes == 5
    model.reset_classifier(9)
    assert model(images).shape == (2, 9) and model.config.num_classes == 9
    model.reset_classifier(0)
    assert model(images).shape == (2, 1024) and model.num_classes == 0
    model.reset_classifier(4, global_pool="")
    assert model(images).shape == (2, 4, 2, 2)
    model.reset_classifier(4, global_pool="max")
    assert torch.equal(model(images), model.forward_head(features.amax((2, 3), keepdim=True)))
    with pytest.raises(ValueError, match=r"global_pool is 'catavgmax'; allowed: 'avg', 'max', ''"):
        model.reset_classifier(4, global_pool="catavgmax")


def test_gradient_checkpointing_changes_nothing_but_memory():
    def trained(checkpointing):
        torch.manual_seed(0)
        model = rexnet.create_model("rexnet_100", num_classes=3, drop_path_rate=0.2)
        model.set_grad_checkpointing(checkpointing)
        model(torch.randn(4, 3, 64, 64)).square().sum().backward()
        return model

    plain, recomputed = trained(False), trained(True)
    for expected, got in zip(plain.buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(expected, got), "running statistics must count each batch once"
    for expected, got in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.allclose(expected.grad, got.grad, rtol=1e-4, atol=1e-6)


def bytes_saved_for_backward(model, images):
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept_alive = model(images)
    assert kept_alive.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.seconds
def test_backward_keeps_no_more_than_timm():
    import timm

    images = torch.randn(8, 3, 224, 224)
    theirs = bytes_saved_for_backward(timm.create_model("rexnet_100"), images)
    assert bytes_saved_for_backward(rexnet.create_model("rexnet_100"), images) <= theirs


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks_at_any_batch_size(training):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet_100", num_classes=4, drop_rate=0.0).train(training)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=2):
        for batch in (2, 3, 5, 7):
            images = torch.randn(batch, 3, 64, 64)
            assert torch.allclose(compiled(images), model(images), atol=1e-4)


@pytest.mark.seconds
def test_exports_with_a_dynamic_batch():
    model = rexnet.create_model("rexnet_100", num_classes=4).eval()
    shapes = {"x": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=shapes)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 64, 64)
        assert torch.allclose(program.module()(images), model(images), atol=1e-5)


def test_traces_and_transforms_as_timm_models_do():
    model = rexnet.create_model("rexnet", width=0.3, num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    assert torch.allclose(torch.fx.symbolic_trace(model)(images), expected, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch says that tracing is old; users still do it
        traced = torch.jit.trace(model, images)
    assert torch.allclose(traced(images), expected, atol=1e-6)
    parameters = dict(model.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    together = torch.autograd.grad(expected.square().sum(), list(parameters.values()))
    for name, gradient in zip(parameters, together, strict=True):
        assert torch.allclose(each[name].sum(0), gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max())


OFFICIAL = {"rexnetv1": rexnetv1.ReXNetV1, "rexnetv1_lite": rexnetv1_lite.ReXNetV1_lite}


QUICKLY_SCRIPTED = ("rexnet_100", "rexnet_lite_100", "rexnet_plain", *OFFICIAL)


@pytest.mark.parametrize(
    "name",
    [
        *QUICKLY_SCRIPTED,
        *(pytest.param(name, marks=pytest.mark.slow) for name in rexnet.list_models() if name not in QUICKLY_SCRIPTED),
    ],
)
def test_scripts_as_timm_models_do(name):
    torch.manual_seed(0)
    model = OFFICIAL[name](classes=4) if name in OFFICIAL else rexnet.create_model(name, num_classes=4)
    images = torch.randn(2, 3, 64, 64)
    with pytest.warns(FutureWarning, match="torch.jit.script"):
        scripted = torch.jit.script(model.eval())
    assert torch.allclose(scripted(images), model(images), atol=1e-5)


def test_scripted_training_is_the_same():
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet_100", num_classes=4, drop_rate=0.0)
    with pytest.warns(FutureWarning, match="torch.jit.script"):
        scripted = torch.jit.script(copy.deepcopy(model))
    images = torch.randn(4, 3, 64, 64)
    assert torch.allclose(scripted(images), model(images), rtol=1e-3, atol=1e-4)


def test_channels_last_and_autocast_give_the_same_answer():
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet_100", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    features = model.forward_features(images.contiguous(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model.forward_head(features), expected, atol=1e-5)


def test_config_survives_json():
    model = rexnet.create_model("rexnet_lite_130", num_classes=7, in_channels=1, output_stride=16, drop_path_rate=0.1)
    config = RexNetConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
    assert config == model.config
    assert RexNet(config).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ()}, "blocks is empty"),
        ({"drop_rate": 1.0}, r"drop_rate is 1.0; allowed: from 0 to below 1"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"stem_channels": 31}, "block 0 takes 32 channels but gets 31"),
        ({"activation": "swosh"}, "activation is 'swosh'; allowed: identity, relu"),
    ],
)
def test_a_wrong_config_is_refused_in_one_sentence(changes, message):
    block = BlockSpec(in_channels=32, expanded_channels=32, out_channels=16)
    with pytest.raises(ValueError, match=message):
        RexNetConfig(**{"name": "tiny", "blocks": (block,), **changes})
