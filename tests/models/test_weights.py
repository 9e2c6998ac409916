import logging
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

import rexnet
import rexnetv1
from rexnet.errors import WeightsError
from rexnet.models.variants import model_config
from rexnet.models.weight_files import CHECKPOINT_FORMAT
from rexnet.models.weights import load_weights, native_to_timm, read_weights


def make(name="rexnet_050", *, seed=0, **options):
    """A network whose every tensor is different from a fresh one's."""
    torch.manual_seed(seed)
    model = rexnet.create_model(name, **options)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
        else:
            tensor.fill_(7 + seed)
    return model


def save(model, path, wrap=lambda state: state):
    state = {key: value.clone() for key, value in wrap(model.state_dict()).items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def equal(model, other, but=()):
    own, expected = model.state_dict(), other.state_dict()
    return own.keys() == expected.keys() and all(torch.equal(own[k], expected[k]) for k in own if k not in but)


def refusal(model, source, **options):
    """The sentence; the model must stay as it was, down to the identity of its parameters."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [id(parameter) for parameter in model.parameters()]
    with pytest.raises(WeightsError) as caught:
        load_weights(model, source, **options)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert parameters == [id(parameter) for parameter in model.parameters()]
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["official", "timm"])
@pytest.mark.parametrize("name", ["rexnet_050", "rexnetr_050"])
def test_files_of_both_kinds_load_and_the_count_is_logged(tmp_path, caplog, suffix, kind, name):
    theirs = make(name, seed=1)
    path = save(theirs, tmp_path / f"w{suffix}", native_to_timm if kind == "timm" else lambda state: state)
    ours = make(name)
    with caplog.at_level(logging.INFO):
        report = rexnet.load_weights(ours, path)
    assert equal(ours, theirs)
    assert (report.loaded, report.total, report.kind, report.variant) == (413, 413, kind, name)
    assert report.not_loaded == () and report.classes is None
    assert caplog.messages == [f"413 of 413 tensors loaded from {str(path)!r}"]


@pytest.mark.parametrize("name", ["rexnet_lite_100", "rexnet_plain"])
def test_every_family_loads_its_own(tmp_path, name):
    theirs, ours = make(name, seed=1), make(name)
    report = load_weights(ours, save(theirs, tmp_path / "w.pth"))
    assert equal(ours, theirs) and report.loaded == report.total and report.variant == name


def test_official_files_load_with_plain_load_state_dict(tmp_path, shared):
    import json

    for case in json.loads((shared / "oracle/reference.json").read_text()):
        state = {key: torch.full(shape, 0.5) for key, shape in case["state_dict"]}
        lite = "lite" in case["kind"]
        width = case["kwargs"]["multiplier" if lite else "width_mult"]
        path = tmp_path / f"{case['id']}.pth"
        torch.save(state, path)
        model = rexnet.create_model(
            "rexnet_lite" if lite else "rexnet", width=width, num_classes=case["kwargs"].get("classes", 1000)
        )
        assert str(model.load_state_dict(torch.load(path, weights_only=True))) == "<All keys matched successfully>"
        assert read_weights(path).variant == model.name


def test_create_model_takes_a_path_and_a_state_dict_needs_no_file(tmp_path):
    theirs = make(seed=1)
    path = save(theirs, tmp_path / "w.pth")
    assert equal(rexnet.create_model("rexnet_050", weights=path), theirs)
    assert equal(rexnet.create_model("rexnet_050", weights=str(path)), theirs)
    ours = make()
    report = load_weights(ours, theirs.state_dict())
    assert equal(ours, theirs) and report.source == "the given state dict"
    load_weights(ours, {"state_dict": {f"module.{key}": value for key, value in make(seed=2).state_dict().items()}})
    assert equal(ours, make(seed=2))


def test_loaded_tensors_are_copies_and_keep_the_models_parameters_and_dtype():
    theirs, ours = make(seed=1), make().double()
    parameters = [id(parameter) for parameter in ours.parameters()]
    load_weights(ours, theirs.state_dict())
    assert parameters == [id(parameter) for parameter in ours.parameters()]
    assert ours.features[0].weight.dtype == torch.float64
    theirs.features[0].weight.data.zero_()
    assert ours.features[0].weight.abs().sum() > 0


def test_checkpoints_of_this_project_carry_their_facts(tmp_path):
    theirs = make(num_classes=2, seed=1)
    content = {
        "format": CHECKPOINT_FORMAT,
        "model": model_config("rexnet_050", num_classes=2).to_dict(),
        "state_dict": theirs.state_dict(),
        "classes": ["cat", "dog"],
        "preprocess": {"image_size_px": 64},
    }
    torch.save(content, tmp_path / "best.pt")
    ours = make(num_classes=2)
    report = load_weights(ours, tmp_path / "best.pt")
    assert equal(ours, theirs) and report.kind == "checkpoint"
    assert (report.classes, report.preprocess) == (("cat", "dog"), {"image_size_px": 64})
    torch.save({**content, "classes": 3}, tmp_path / "odd.pt")
    assert "class names" in refusal(ours, tmp_path / "odd.pt")


def test_a_file_without_batch_counters_is_complete(tmp_path):
    theirs, ours = make(seed=1), make()
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    report = load_weights(ours, state)
    counters = [key for key in ours.state_dict() if key.endswith("num_batches_tracked")]
    assert report.loaded == 413 - len(counters) and list(report.not_loaded) == counters
    assert equal(ours, theirs, but=counters)


@pytest.mark.parametrize("name", ["rexnet_050", "rexnet_lite_100"])
def test_another_class_count(tmp_path, caplog, name):
    theirs = make(name, num_classes=7, seed=1)
    path = save(theirs, tmp_path / "w.pth")
    ours = make(name, num_classes=5)
    text = refusal(ours, path)
    assert "has 7 classes, but the model has 5" in text and '"reset"' in text and '"keep"' in text

    classifier = [f"output.{len(ours.output) - 1}.{part}" for part in ("weight", "bias")]
    old = ours.get_classifier().weight.clone()
    with caplog.at_level(logging.INFO):
        report = load_weights(ours, path, classifier="reset")
    assert ours.num_classes == 5 and list(report.not_loaded) == classifier
    assert report.loaded == report.total - 2 and f"not {', '.join(classifier)}" in caplog.text
    assert not torch.equal(ours.get_classifier().weight, old)
    ours.reset_classifier(7)
    assert equal(ours, theirs, but=classifier)

    ours = make(name, num_classes=5)
    report = load_weights(ours, path, classifier="keep")
    assert report.loaded == report.total and ours.num_classes == ours.config.num_classes == 7 and equal(ours, theirs)


def test_reset_makes_a_new_classifier_even_where_the_counts_agree():
    theirs, ours = make(num_classes=5, seed=1), make(num_classes=5)
    before = ours.get_classifier().weight.clone()
    load_weights(ours, theirs.state_dict(), classifier="reset")
    weight = ours.get_classifier().weight
    assert not torch.equal(weight, theirs.get_classifier().weight) and not torch.equal(weight, before)
    assert weight.requires_grad and weight.dtype == torch.float32


def test_networks_and_files_without_classifier():
    bare, full = make(num_classes=0, seed=1), make(num_classes=5, seed=2)
    report = load_weights(bare, full.state_dict())
    assert report.loaded == report.total == 411 and bare.num_classes == 0
    load_weights(bare, full.state_dict(), classifier="keep")
    assert bare.num_classes == 5 and equal(bare, full)

    bare = make(num_classes=0, seed=1)
    assert "has no classifier" in refusal(full, bare.state_dict())
    assert "has no classifier" in refusal(full, bare.state_dict(), classifier="keep")
    report = load_weights(full, bare.state_dict(), classifier="reset")
    assert (report.loaded, report.total) == (411, 413)
    assert "allowed: strict, keep, reset" in refusal(full, bare.state_dict(), classifier="kept")


@pytest.mark.parametrize("kind", [make, lambda: rexnetv1.ReXNetV1(width_mult=0.5)])
def test_a_classifier_replaced_by_hand(tmp_path, kind):
    path = save(make(num_classes=50, seed=1), tmp_path / "w.pth")
    net = kind()
    net.output[1] = torch.nn.Conv2d(net.num_features, 50, 1)
    assert load_weights(net, path).loaded == 413 and equal(net, make(num_classes=50, seed=1))


@pytest.mark.parametrize(
    ("theirs", "own", "parts"),
    [
        ("rexnet_200", "rexnet_100", ["is width 2.00 (rexnet_200)", "the model is width 1.00 (rexnet_100)"]),
        ("rexnet_lite_100", "rexnet_100", ["(rexnet_lite_100)", "(rexnet_100)"]),
        ("rexnet_100", "rexnet_lite_100", ["is width 1.00 (rexnet_100)", "(rexnet_lite_100)"]),
        ("rexnetr_100", "rexnet_100", ["(rexnetr_100)", "(rexnet_100)"]),
        ("rexnet_117", "rexnet_100", ["is width 1.17 (rexnet_117)"]),
        ("rexnet_plain", "rexnet_100", ["is rexnet_plain"]),
        ("rexnet_100", "rexnet_plain", ["model is rexnet_plain"]),
    ],
)
@pytest.mark.parametrize("classifier", ["strict", "keep", "reset"])
def test_another_network_is_named(theirs, own, parts, classifier):
    # The class count differs too: the network comes first.
    text = refusal(rexnet.create_model(own, num_classes=3), make(theirs).state_dict(), classifier=classifier)
    assert all(part in text for part in parts)


def test_another_number_of_image_channels():
    text = refusal(make(in_channels=1), make(seed=1).state_dict())
    assert "images with 3 channels, but the model takes 1" in text and "in_channels=3" in text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda state: state.pop("features.5.out.1.weight"), "lacks tensors (features.5.out.1.weight)"),
        (lambda state: [state.pop(f"features.{n}.out.1.bias") for n in range(4, 9)], "features.6.out.1.bias, ...)"),
        (lambda state: state.update(more=torch.ones(1)), "unknown tensors (more)"),
        (lambda state: state.update({"features.1.bias": torch.ones(3)}), "features.1.bias of shape (3,)"),
        (
            lambda state: state.update({"output.1.weight": state["output.1.weight"].flatten(1)}),
            "output.1.weight of shape",
        ),
        (lambda state: state["features.4.out.4.running_var"].fill_(float("nan")), "not finite"),
        (lambda state: state["features.1.bias"].fill_(float("inf")), "not finite"),
        (lambda state: state.update({"features.1.bias": torch.ones(32).long()}), "as torch.strided torch.int64"),
        (lambda state: state.update({"features.1.bias": torch.ones(32).to_sparse()}), "torch.sparse_coo"),
        (lambda state: state.update({"features.1.bias": torch.ones(32).cfloat()}), "torch.complex64"),
        (lambda state: state.pop("features.0.weight"), "no ReXNet: its first tensors are features.1.weight"),
        (lambda state: state.update({"features.4.out.9.weight": torch.ones(1, 1, 1, 1)}), "no ReXNet"),
    ],
)
@pytest.mark.parametrize("classifier", ["strict", "keep"])
def test_damaged_state_dicts_leave_the_model_unchanged(change, part, classifier):
    state = {key: value.clone() for key, value in make(seed=1).state_dict().items()}
    change(state)
    assert part in refusal(make(), state, classifier=classifier)


def test_a_classifier_that_does_not_fit_is_refused_before_the_model_is_resized():
    state = make(seed=1, num_classes=9).state_dict()
    for change in ({"output.1.weight": torch.ones(9, 641, 1, 1)}, {"output.1.bias": torch.ones(8)}):
        refusal(make(num_classes=5), {**state, **change}, classifier="keep")
    del state["output.1.bias"]
    assert "lacks" in refusal(make(num_classes=5), state, classifier="keep")


def test_half_precision_that_overflows_is_refused():
    state = make(seed=1).state_dict()
    state["features.1.running_var"] = torch.full((32,), 1e6)
    assert "not finite" in refusal(make().half(), state)


@pytest.mark.seconds
def test_other_networks_are_not_a_rexnet(tmp_path):
    state = timm.create_model("mobilenetv2_050").state_dict()
    assert "contains no ReXNet: its first tensors are conv_stem.weight" in refusal(make(), state)
    torch.save(state, tmp_path / "w.pth")
    assert repr(str(tmp_path / "w.pth")) in refusal(make(), tmp_path / "w.pth")


@pytest.mark.parametrize("load", [load_weights, lambda model, path: rexnet.create_model("rexnet_050", weights=path)])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_malicious_files_run_nothing_on_any_path(tmp_path, load, name):
    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "sentinel"), "w"))

    path = tmp_path / name
    for content in (pickle.dumps(Malice()), None):
        torch.save({"state_dict": Malice()}, path) if content is None else path.write_bytes(content)
        with pytest.raises(WeightsError):
            load(make(), path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("rexnet_100", "published: rexnet_100.nav_in1k, rexnet_100.timm_release, rexnet_100.official"),
        ("rexnet_100.nav_in22k", "published: rexnet_100.nav_in1k"),
        ("rexnt_100.nav_in1k", "rexnet_100.nav_in1k"),
        ("rexnet_090", "rexnet_100.nav_in1k"),
        ("what is this", "rexnetr_300.sw_in12k"),
        ("gone.pth", "'gone.pth' does not exist"),
        ("run/best", "'run/best' does not exist"),
        ("", "neither a file nor published weights called ''"),
    ],
)
def test_names_without_a_file(name, part):
    assert part in refusal(make(), name)


def test_a_detectors_weights_are_not_a_classifiers():
    content = {"format": CHECKPOINT_FORMAT, "task": "detection", "state_dict": {"backbone.weight": torch.ones(1)}}
    with pytest.raises(WeightsError, match=r"last\.pt holds a detector"):
        read_weights(content, label="last.pt")
