import json

import pytest
import torch
from torch import nn

from rexnet.ranks.layer_ranks import measure_layers
from rexnet.study.config import NetworkOptions
from rexnet.study.layers import measure_network


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)
    ).append(nn.Identity())


def test_ranks_of_layers_are_those_of_their_outputs():
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU(inplace=True), nn.Conv2d(12, 8, 3)
    )
    batches = [torch.rand(2, 3, 6, 6) for _ in range(3)]
    model.train()
    first, last = measure_layers(model, batches, tolerance=1e-4)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    model.eval()
    with torch.inference_mode():
        columns = torch.cat([model[:3](images).transpose(0, 1).flatten(1) for images in batches], 1).double()
    values = torch.linalg.svdvals(columns)
    torch.testing.assert_close(torch.tensor(first.spectrum), values.float(), rtol=1e-4, atol=1e-4)
    assert first.rank == int((values > 1e-4 * values[0]).sum()) > 3
    assert (first.name, first.kind, first.ratio, first.samples) == ("0", "1x1", 0.25, 3 * 2 * 36)
    assert (last.out_channels, last.ratio) == (8, 1.5)


def test_a_linear_bottleneck_is_found():
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 16, 1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
    )
    layers = measure_layers(model, [torch.rand(4, 3, 8, 8)], tolerance=1e-4)
    assert [layer.rank for layer in layers] == [2, 2, 2]


def test_unmeasurable_models_are_refused():
    with pytest.raises(ValueError, match="no Conv2d or Linear"):
        measure_layers(nn.ReLU(), [torch.rand(1, 3, 4, 4)], tolerance=1e-4)
    with pytest.raises(ValueError, match="output of 0 has values that are not finite"):
        measure_layers(nn.Sequential(nn.Conv2d(3, 4, 1)), [torch.full((1, 3, 4, 4), torch.nan)], tolerance=1e-4)
    with pytest.raises(ValueError, match=r"tolerance is 1e-09; allowed for a network: 1e-7 or more"):
        measure_layers(nn.Conv2d(3, 4, 1), [], tolerance=1e-9)


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["rexnet_050", "timm/mobilenetv3_small_050", "tests.study.test_layers:make_network"])
def test_networks_by_name_on_real_images(image_folder, tmp_path, name):
    options = NetworkOptions(model=name, data=str(image_folder), images=4, image_size=32, device="cpu")
    layers = measure_network(options, tolerance=1e-4, output=tmp_path / "out")
    assert layers[0].in_channels == 3 and all(0 <= layer.rank <= layer.out_channels for layer in layers)
    assert all(layer.stable_rank <= layer.rank + 1e-6 for layer in layers if layer.rank)
    assert set(json.loads((tmp_path / "out/spectra.json").read_text())) == {layer.name for layer in layers}
    assert (tmp_path / "out/layers.csv").read_text().count("\n") == len(layers) + 1
    assert (tmp_path / "out/layers.png").exists() and (tmp_path / "out/layers.svg").exists()


@pytest.mark.seconds
def test_a_checkpoint_is_measured_as_it_was_trained(trained_run, tmp_path):
    options = NetworkOptions(model=str(trained_run / "best.pt"), data=str(trained_run.parent / "images"), images=8)
    layers = measure_network(options, tolerance=1e-4, output=tmp_path)
    assert layers[0].samples == 8 * 24 * 24


def test_layers_with_fewer_samples_than_channels_are_logged_with_the_images_that_suffice(
    image_folder, tmp_path, caplog
):
    options = NetworkOptions(model="rexnet_010", data=str(image_folder), images=4, image_size=32, device="cpu")
    layers = measure_network(options, tolerance=1e-4, output=tmp_path)
    limited = [layer for layer in layers if layer.samples < layer.out_channels]
    needed = max(-(-4 * layer.out_channels // layer.samples) for layer in limited)
    (sentence,) = caplog.messages
    assert sentence.startswith(f"{len(limited)} of {len(layers)} layers have fewer samples")
    assert sentence.endswith(f"--images {needed} suffices") and needed > 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": "rexnet_100"}, "--data is None; allowed: with --model, a folder of images"),
        ({"data": "images"}, "--data is images; allowed: only with --model"),
        ({"model": "a", "data": "b", "images": 0}, "--images is 0; allowed: 1 or more"),
    ],
)
def test_options_that_exclude_each_other(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        NetworkOptions(**fields)


@pytest.mark.parametrize(
    ("name", "sentence"), [("timm/nothing", "timm has no network"), ("lost.pt", "there is no file")]
)
def test_missing_networks(image_folder, tmp_path, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure_network(NetworkOptions(model=name, data=str(image_folder)), tolerance=1e-4, output=tmp_path)
