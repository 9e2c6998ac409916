import pytest
import torch

from rexnet.cli import main
from rexnet.study.depth import PLACEMENTS, DepthConfig, study_depth
from rexnet.study.networks import DeepNetwork, Size, deep_name, find_block, generator_for
from rexnet.study.protocol import Protocol, outputs

SIZE = Size(in_channels=4, out_channels=64, expanded_channels=4, samples=65)
SMALL = {"networks": 50, "layers": 3, "activations": ("linear", "relu", "silu")}


@pytest.mark.parametrize("layers", [2, 5, 6])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_as_many_layers_expand_as_are_asked_for_between_the_same_ends(placement, layers):
    for count in range(1, layers + 1):
        block = find_block(deep_name(placement, count, layers=layers))
        assert block == DeepNetwork(layers=layers, expand_layers=count, placement=placement)
        shapes = block.weight_shapes(SIZE)
        grows = [after > before for after, before, _ in shapes]
        assert (len(grows), sum(grows), shapes[0][1], shapes[-1][0]) == (layers, count, 4, 64)
        if placement == "early":
            assert all(grows[:count])
        if placement == "late":
            assert all(grows[-count:])


def test_one_spread_layer_is_in_the_middle_and_all_layers_are_the_same_anywhere():
    assert find_block("spread_1_of_6").widths(SIZE) == [4, 4, 4, 64, 64, 64, 64]
    assert find_block("spread_2_of_6").widths(SIZE) == [4, 4, 16, 16, 16, 64, 64]
    widths = [find_block(deep_name(placement, 4, layers=4)).widths(SIZE) for placement in PLACEMENTS]
    assert widths == [[4, 8, 16, 32, 64]] * 3


def test_a_deep_network_is_its_layers_written_with_torch():
    protocol = Protocol(weights="he", weight_scale=1.0, dtype="float64", norm="none")
    block = find_block("late_2_of_3")
    *weights, x = tensors = protocol.draw_tensors(block, SIZE, generator_for(0, "deep", ratio=0.1, network=0))
    expected = x[:, :, 0, 0]
    for weight in weights:
        expected = torch.nn.functional.silu(weight[:, :, 0, 0] @ expected)
    torch.testing.assert_close(outputs(protocol, block, batch=[tensors], activations=["silu"])[0, 0], expected)


def test_late_expand_layers_raise_the_rank_and_linear_layers_never_do(tmp_path):
    cells = study_depth(DepthConfig(output=str(tmp_path), **SMALL))
    for activation in ("relu", "silu"):
        means = [cells["late", count][activation].mean for count in (1, 2, 3)]
        assert means == sorted(means) and means[2] > means[0] + 0.1
    assert all(cell["linear"].mean <= 0.1 + 1e-9 for cell in cells.values())


@pytest.mark.seconds
def test_the_command_extends_its_folder_and_refuses_another_protocol(tmp_path, capsys):
    words = ["study", "depth", "--layers", "2", "--activations", "relu", "--output", str(tmp_path / "out")]
    main([*words, "--networks", "50"])
    first = (tmp_path / "out/ranks.csv").read_bytes()
    main([*words, "--networks", "100"])
    assert (tmp_path / "out/ranks.csv").read_bytes().startswith(first)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("ranks.csv", "summary.csv", "figure.png", "figure.svg")
    }
    assert "100 networks a cell" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seed", "1"])
    assert stop.value.code == 1 and "was made with --seed 0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layers": 1}, "--layers is 1; allowed: 2 to 50"),
        ({"ratio": 1.0}, "--ratio is 1.0; allowed: above 0 and below 1"),
        ({"networks": 60}, "--networks is 60; allowed: a multiple of 50"),
        ({"activations": ("relu9",)}, "activation is 'relu9'; allowed: "),
    ],
)
def test_options_that_cannot_be(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        DepthConfig(**fields)


@pytest.mark.parametrize("name", ["late_0_of_3", "late_4_of_3", "middle_1_of_3"])
def test_deep_networks_that_cannot_be(name):
    with pytest.raises(ValueError, match=f"there is no '{name}'; allowed: conv1x1, .*late_2_of_6, or module:factory"):
        find_block(name)
