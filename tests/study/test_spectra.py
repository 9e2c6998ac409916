import json

import pytest
import timm
import torch
from torch import nn

from rexnet.cli import main
from rexnet.models.factory import create_model
from rexnet.study.config import NetworkOptions
from rexnet.study.layers import load_network
from rexnet.study.spectra import final_features, is_trained, spectrum_of, take_statistics
from rexnet.training import checkpoint


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


@pytest.mark.parametrize("name", ["rexnet_050", "rexnet_lite_100", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_final_features_are_the_input_of_the_classifier(name):
    torch.manual_seed(0)
    ours = name.startswith("rexnet")
    model = create_model(name) if ours else timm.create_model(name)
    side = 224 if "vit" in name else 48
    batches = [torch.randn(2, 3, side, side) for _ in range(2)]
    model.train()
    found = final_features(model, batches)
    assert model.training and not any(module._forward_pre_hooks for module in model.modules())
    model.eval()
    with torch.inference_mode():
        expected = [model.forward_head(model.forward_features(images), pre_logits=True) for images in batches]
    torch.testing.assert_close(found, torch.cat(expected))


def test_a_convolutional_classifier_gets_the_mean_over_positions():
    images = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1))
    torch.testing.assert_close(final_features(model, [images]), images.mean((2, 3)))
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5))
    torch.testing.assert_close(final_features(tokens, [images]), images.flatten(2).mean(1))


def test_an_untrained_network_gets_the_statistics_of_its_images():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1))
    images = 3 + 2 * torch.randn(33, 3, 6, 6)
    take_statistics(model, images.split(32))  # and one image is left over
    with torch.inference_mode():
        normed = model[:2].eval()(images[:32])
    torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.var((0, 2, 3)), torch.ones(8), atol=0.02, rtol=0)


def test_a_known_spectrum():
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    rotation = torch.linalg.qr(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))[0]
    spectrum = spectrum_of(rotation * values, network="x", trained=True)
    assert spectrum.values == pytest.approx(values.tolist(), rel=1e-5)
    assert (spectrum.samples, spectrum.channels) == (10, 4)
    assert spectrum.nuclear_norm == pytest.approx(8.0) and spectrum.stable_rank == pytest.approx(22 / 16)
    assert [spectrum.quantile(share) for share in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([0.25, 0.25, 0.5, 1.0])
    flat = spectrum_of(torch.eye(6), network="x", trained=False)
    assert flat.effective_rank == pytest.approx(6.0) and spectrum.effective_rank < 4
    assert flat.label == "x, untrained"
    with pytest.raises(ValueError, match="not finite"):
        spectrum_of(torch.full((2, 2), torch.nan), network="x", trained=True)


def test_the_command_compares_checkpoints_names_and_factories(trained_run, tmp_path, capsys):
    checkpoint, images = str(trained_run / "best.pt"), str(trained_run.parent / "images")
    names = [checkpoint, "timm/mobilenetv3_small_050", "tests.study.test_spectra:make_network"]
    options = ["--data", images, "--images", "17", "--image-size", "32", "--untrained-too", "--device", "cpu"]
    main(["study", "spectra", *names, *options, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/spectra.json").read_text())
    trained = {(row["network"], row["trained"]): row for row in found}
    assert list(trained) == [("run/best.pt", True), ("run/best.pt", False), (names[1], False), (names[2], True)]
    assert trained["run/best.pt", True]["values"] != trained["run/best.pt", False]["values"]
    for row in found:
        assert row["samples"] == 17 and len(row["values"]) == min(17, row["channels"])
        assert row["values"] == sorted(row["values"], reverse=True) and row["effective_rank"] <= len(row["values"])
    assert (tmp_path / "out/figure.png").exists() and (tmp_path / "out/figure.svg").exists()
    assert capsys.readouterr().out.endswith(f"figures: {tmp_path / 'out'}\n")


def test_a_model_folder_is_the_trained_network_in_it(tiny_model, tiny_preprocess, tmp_path):
    folder, model = tmp_path / "card", tiny_model()
    folder.mkdir()
    content = checkpoint.pack(model, {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    checkpoint.save(folder / "model.safetensors", content)
    read, preprocess = load_network(str(folder), image_size=24)
    images = torch.randn(2, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(read(images), model.eval()(images))
    assert preprocess.image_size_px == 24
    assert is_trained(NetworkOptions(model=str(folder), data="digits"))


def test_a_file_of_a_search_has_no_weights(tmp_path):
    file = tmp_path / "network.json"
    file.write_text("{}")
    assert not is_trained(NetworkOptions(model=str(file), data="digits"))


def test_images_of_a_set_with_a_name(tmp_path, capsys):
    words = ["study", "spectra", "rexnet_050", "--data", "digits", "--images", "8", "--image-size", "32"]
    main([*words, "--output", str(tmp_path)])
    (found,) = json.loads((tmp_path / "spectra.json").read_text())
    assert (found["samples"], found["trained"]) == (8, False)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["rexnet_100", "--data", "digits", "--untrained-too"],
            2,
            "--untrained-too is True; allowed: only with --pretrained",
        ),
        (["rexnet_100", "rexnet_100", "--data", "digits"], 2, "each once"),
        (["rexnet_100", "--data", "digits", "--images", "0"], 2, "--images is 0; allowed: 1 or more"),
        (["lost.pt", "--data", "digits"], 1, "there is no file"),
        (["rexnet_100", "--data", "no-such-folder"], 1, "no-such-folder does not exist"),
        (["rexnet_100"], 2, "--data"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(words, code, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["study", "spectra", *words])
    assert stop.value.code == code
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_network_without_layers_has_no_classifier():
    with pytest.raises(ValueError, match="no classifier"):
        final_features(nn.ReLU(), [torch.rand(1, 3, 4, 4)])
