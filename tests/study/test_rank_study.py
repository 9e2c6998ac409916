import pytest

from rexnet.cli import main
from rexnet.study.config import DepthConfig, RankConfig
from rexnet.study.rank_study import study_depth

WORDS = "study rank --blocks conv1x1 --activations linear silu --ratios 0.5 1.0 --smallest-size 10 --largest-size 20"


def test_the_command_writes_tables_and_figures_and_extends_them(tmp_path, capsys):
    words = [*WORDS.split(), "--output", str(tmp_path / "study")]
    main([*words, "--networks", "50"])
    first = {path.name: path.read_bytes() for path in (tmp_path / "study").iterdir()}
    assert set(first) == {"ranks.csv", "summary.csv", "figure.png", "figure.svg"}
    main([*words, "--networks", "50"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "study").iterdir()} == first
    capsys.readouterr()
    main([*words, "--networks", "100"])
    assert "100 networks per cell" in capsys.readouterr().out
    assert (tmp_path / "study/ranks.csv").read_bytes().startswith(first["ranks.csv"])
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seed", "1"])
    assert stop.value.code == 1 and "was written with --seed 0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"networks": 20}, "--networks is 20; allowed: a multiple of 50"),
        ({"processes": 0}, "--processes is 0; allowed: 1 or more, or -1"),
        ({"address": "tcp://a:1", "processes": 2}, "--processes is 2; allowed: 1 with --address"),
    ],
)
def test_impossible_options_of_rank_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        RankConfig(**fields)


def test_late_expand_layers_raise_the_rank_and_linear_layers_never_do(tmp_path):
    cells = study_depth(
        DepthConfig(output=str(tmp_path), networks=50, layers=3, activations=("linear", "relu", "silu"))
    )
    for activation in ("relu", "silu"):
        means = [cells["late", count][activation].mean for count in (1, 2, 3)]
        assert means == sorted(means) and means[2] > means[0] + 0.1
    assert all(cell["linear"].mean <= 0.1 + 1e-9 for cell in cells.values())


def test_the_command_for_deep_networks_writes_the_same_files(tmp_path, capsys):
    words = ["study", "depth", "--layers", "2", "--activations", "relu", "--networks", "50"]
    main([*words, "--output", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("ranks.csv", "summary.csv", "figure.png", "figure.svg")
    }
    assert "50 networks per cell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layers": 1}, "--layers is 1; allowed: 2 to 50"),
        ({"ratio": 1.0}, "--ratio is 1.0; allowed: above 0 and below 1"),
        ({"networks": 60}, "--networks is 60; allowed: a multiple of 50"),
        ({"activations": ("relu9",)}, "'relu9'; allowed: "),
    ],
)
def test_impossible_options_of_depth_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        DepthConfig(**fields)
