import copy
import os
import subprocess
import sys
import warnings
from itertools import combinations

import pytest
import timm
import torch
from httpx2 import Request, Response
from huggingface_hub.errors import HfHubHTTPError
from timm.models import group_parameters

import rexnet
from rexnet.errors import WeightsError
from rexnet.models.weights import native_to_timm


@pytest.fixture(scope="module", autouse=True)
def names():
    return rexnet.register_with_timm()


def make(name="rexnet_050", seed=1, **options):
    torch.manual_seed(seed)
    model = rexnet.create_model(name, **options)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return model.eval()


def save(state, path):
    torch.save(state, path)
    return str(path)


def test_every_network_is_registered_and_none_of_timms_is_shadowed(names):
    ours = {f"native_{name}" for name in rexnet.list_models()}
    assert set(names) == ours and set(timm.list_models("native_*")) == ours
    assert set(timm.list_models(module="rexnet_native")) == ours
    for name in ("rexnet_100", "rexnet_300", "rexnetr_200"):
        assert type(timm.create_model(name)).__module__ == "timm.models.rexnet"


def test_a_second_call_changes_nothing_and_warns_about_nothing(names):
    entry = timm.models.model_entrypoint("native_rexnet_100")
    with warnings.catch_warnings(action="error"):
        assert rexnet.register_with_timm() == names
    assert timm.models.model_entrypoint("native_rexnet_100") is entry
    assert timm.list_models("native_*", pretrained=True).count("native_rexnet_100.nav_in1k") == 1


@pytest.mark.parametrize("name", ["rexnet_090", "rexnet_100", "rexnetr_100", "rexnet_lite_100", "rexnet_plain"])
def test_networks_are_ours_with_timms_arguments(name):
    model = timm.create_model(f"native_{name}", num_classes=7, in_chans=1, drop_rate=0.3, drop_path_rate=0.1)
    assert isinstance(model, rexnet.RexNet)
    config = model.config
    assert (config.name, config.num_classes, config.in_channels) == (name, 7, 1)
    assert (config.drop_rate, config.drop_path_rate) == (0.3, 0.1)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


@pytest.mark.seconds
def test_all_are_creatable_on_the_meta_device(names):
    with torch.device("meta"):
        for name in names:
            assert timm.create_model(name).name == name.removeprefix("native_")


def test_own_arguments_and_mistakes():
    assert timm.create_model("native_rexnet_100", output_stride=16, stem_stride=1).config.stem_stride == 1
    with pytest.raises(ValueError, match=r"global_pool is 'avgmax'; allowed: 'avg', 'max', ''"):
        timm.create_model("native_rexnet_100", global_pool="avgmax")
    with pytest.raises(ValueError, match="output_stride is 7"):
        timm.create_model("native_rexnet_100", output_stride=7)


def test_no_classifier_and_no_pooling():
    images = torch.randn(2, 3, 64, 64)
    assert timm.create_model("native_rexnet_100", num_classes=0)(images).shape == (2, 1280)
    assert timm.create_model("native_rexnet_100", num_classes=0, global_pool="")(images).shape == (2, 1280, 2, 2)


def pair(name="rexnet_100", **options):
    """timm's network and ours with the same weights, in evaluation."""
    torch.manual_seed(0)
    overlay = {"state_dict": timm.create_model(name).state_dict()}
    options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return timm.create_model(name, **options).eval(), timm.create_model(f"native_{name}", **options).eval()


def assert_close(maps, expected):
    assert [m.shape for m in maps] == [m.shape for m in expected]
    for own, other in zip(maps, expected, strict=True):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


OUT_INDICES = [chosen for count in range(1, 6) for chosen in combinations(range(5), count)]


@pytest.mark.seconds
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["rexnet_100", "rexnetr_100"])
def test_features_only_equals_timms_for_all_levels_and_output_strides(name, output_stride):
    theirs, ours = pair(name, features_only=True, output_stride=output_stride)
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = theirs(images)
        assert_close(ours(images), expected)
        theirs, ours = pair(name, output_stride=output_stride)
        image = images[:1, :, :32, :32]
        for indices in [None, 1, 2, 5, (-1,), (-3, -1), *OUT_INDICES]:
            own, other = (model.forward_intermediates(image, indices, stop_early=True) for model in (ours, theirs))
            assert_close([own[0], *own[1]], [other[0], *other[1]])


@pytest.mark.seconds
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("out_indices", [(-1,), (-3, -1), 1, 3, *OUT_INDICES])
def test_features_only_declares_what_timm_declares(output_stride, out_indices):
    options = {"features_only": True, "output_stride": output_stride, "out_indices": out_indices}
    with torch.device("meta"):
        theirs, ours = (timm.create_model(name, **options).eval() for name in ("rexnet_100", "native_rexnet_100"))
        maps = ours(torch.empty(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == ours.feature_info.channels() == theirs.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == ours.feature_info.reduction() == theirs.feature_info.reduction()


@pytest.mark.parametrize("prune_norm", [False, True])
@pytest.mark.parametrize("prune_head", [False, True])
@pytest.mark.parametrize("indices", [[0], [1, 3], [4], [-1], 1, 5])
def test_pruning_equals_timms(indices, prune_head, prune_norm):
    theirs, ours = pair()
    options = {"prune_head": prune_head, "prune_norm": prune_norm}
    kept = ours.prune_intermediate_layers(indices, **options)
    assert kept == theirs.prune_intermediate_layers(indices, **options)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close(
            ours.forward_intermediates(images, kept, intermediates_only=True),
            theirs.forward_intermediates(images, kept, intermediates_only=True),
        )
        assert_close([ours(images)], [theirs(images)])
    assert (ours.num_features, ours.num_classes) == (theirs.num_features, theirs.num_classes)


def test_a_pruned_network_works_as_a_smaller_one():
    model = rexnet.create_model("rexnet_lite_100").eval()
    assert model.prune_intermediate_layers([-2]) == [3]
    model.reset_classifier(7, "avg")
    images = torch.randn(2, 3, 64, 64)
    final, maps = model.forward_intermediates(images, expanded=True)
    assert [m.shape[1] for m in maps] == [level.expanded_channels for level in model.feature_levels]
    assert torch.equal(maps[-1], final) and model(images).shape == (2, 7)


def test_layers_are_grouped_as_timms():
    groups = [group_parameters(model, model.group_matcher()) for model in pair()]
    count = [[len(names) for names in found.values()] for found in groups]
    assert count[0] == count[1] and len(count[1]) == 1 + 16 + 1 + 1


def test_max_pooling_equals_timms():
    theirs, ours = pair(global_pool="max")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close([ours(images)], [theirs(images)])


@pytest.mark.parametrize("name", ["rexnet_lite_100", "rexnet_plain"])
def test_features_only_of_networks_that_timm_does_not_have(name):
    model = timm.create_model(f"native_{name}", features_only=True, out_indices=(1, 4)).eval()
    maps = model(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (2, 2)]
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook"])
@torch.inference_mode()
def test_features_only_of_each_extractor_of_timm(feature_cls):
    def maps(**options):
        torch.manual_seed(0)
        model = timm.create_model("native_rexnet_100", features_only=True, out_indices=(1, 3), **options).eval()
        found = model(torch.ones(1, 3, 64, 64))
        return list(found.values()) if isinstance(found, dict) else found

    assert_close(maps(feature_cls=feature_cls), maps())


def same_logits(own, other, channels=3):
    images = torch.randn(2, channels, 64, 64)
    with torch.inference_mode():
        return torch.allclose(own.eval()(images), other.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convert", [dict, native_to_timm])
@pytest.mark.parametrize("how", ["overlay", "config", "checkpoint_path"])
def test_files_with_either_keys_load(tmp_path, convert, how):
    theirs = make("rexnet_100")
    path = save({"state_dict": convert(theirs.state_dict())}, tmp_path / "w.pth")
    options = {
        "overlay": {"pretrained": True, "pretrained_cfg_overlay": {"file": path}},
        "config": {"pretrained": True, "pretrained_cfg": {"file": path, "num_classes": 1000}},
        "checkpoint_path": {"checkpoint_path": path},
    }
    assert same_logits(timm.create_model("native_rexnet_100", **options[how]), theirs)


@pytest.mark.parametrize("convert", [dict, native_to_timm])
def test_pretrained_with_another_class_count_and_image_channels(tmp_path, convert):
    theirs = make("rexnet_100")
    path = save(convert(theirs.state_dict()), tmp_path / "w.pth")
    options = {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}
    ours = timm.create_model("native_rexnet_100", num_classes=5, **options)
    assert ours.num_classes == 5
    ours.reset_classifier(0)
    theirs.reset_classifier(0)
    assert same_logits(ours, theirs)

    gray = timm.create_model("native_rexnet_100", in_chans=1, num_classes=0, **options)
    image = torch.randn(2, 1, 64, 64)
    assert torch.allclose(gray.eval()(image), theirs(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_lite_file_resets_its_own_classifier(tmp_path):
    theirs = make("rexnet_lite_100")
    overlay = {"file": save(theirs.state_dict(), tmp_path / "w.pth")}
    ours = timm.create_model(
        "native_rexnet_lite_100", num_classes=4, pretrained=True, pretrained_cfg_overlay=overlay
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    own, other = (m.forward_head(m.forward_features(images), pre_logits=True) for m in (ours, theirs))
    assert torch.allclose(own, other, rtol=1e-4, atol=1e-5)


def test_files_of_another_network_are_named(tmp_path):
    path = save(native_to_timm(make("rexnet_130").state_dict()), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"is width 1.30 \(rexnet_130\), but the model is width 1.00 \(rexnet_100\)"):
        timm.create_model("native_rexnet_100", pretrained=True, pretrained_cfg_overlay={"file": path})


def test_a_malicious_file_runs_nothing(tmp_path):
    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "sentinel"), "w"))

    path = save({"state_dict": Malice()}, tmp_path / "w.pth")
    for options in ({"checkpoint_path": path}, {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}):
        with pytest.raises(RuntimeError, match="weights_only"):
            timm.create_model("native_rexnet_100", **options)
    assert not (tmp_path / "sentinel").exists()


def test_tags_are_timms_and_carry_the_transform():
    config = timm.get_pretrained_cfg("native_rexnetr_200.sw_in12k_ft_in1k")
    theirs = timm.get_pretrained_cfg("rexnetr_200.sw_in12k_ft_in1k")
    assert config is not None and theirs is not None and config.hf_hub_id == theirs.hf_hub_id
    assert (config.crop_pct, config.mean, config.std) == (theirs.crop_pct, theirs.mean, theirs.std)
    assert (config.test_crop_pct, config.test_input_size) == (theirs.test_crop_pct, theirs.test_input_size)
    transform = timm.data.resolve_model_data_config(timm.create_model("native_rexnet_100"))
    assert transform["input_size"] == (3, 224, 224) and transform["crop_pct"] == 0.875
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("native_rexnet_110", pretrained=True)


@pytest.mark.seconds
def test_a_failed_download_is_reported_in_one_sentence(tmp_path):
    code = (
        "import timm, rexnet\nrexnet.register_with_timm()\n"
        "try: timm.create_model('native_rexnet_100.nav_in1k', pretrained=True)\n"
        "except ValueError as error: print(error)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "the weights of native_rexnet_100 could not be downloaded" in done.stdout, done.stderr
    assert "pretrained_cfg_overlay" in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_hub_is_not_queried_again(monkeypatch, tmp_path, status):
    """timm itself asks six times for each of two files."""
    asked = []

    def ask(*place, revision):
        asked.append(place)
        raise HfHubHTTPError("no", response=Response(status, request=Request("HEAD", "https://host/file")))

    monkeypatch.setattr("rexnet.timm_models.ask_hub", ask)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_: pytest.fail("timm asked too"))
    for name in ("native_rexnet_100", "native_rexnetr_200.sw_in12k"):
        with pytest.raises(WeightsError, match=r"native_rexnetr?_\d00\S* could not be downloaded \(HfHubHTTPError\)"):
            timm.create_model(name, pretrained=True)
    assert len(asked) == 2


def test_timms_arguments_that_are_not_ours_by_name():
    model = timm.create_model("native_rexnet_100", act_layer="relu", device="meta")
    assert model.config.activation == "relu" and next(model.parameters()).is_meta
    with pytest.raises(ValueError, match="norm_layer is not an option"):
        timm.create_model("native_rexnet_100", norm_layer=torch.nn.BatchNorm2d)


@pytest.mark.seconds
def test_importing_the_module_does_not_import_timm():
    code = "import sys, rexnet.timm_models; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
