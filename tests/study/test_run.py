import pytest

from rexnet.cli import main
from rexnet.study.published import PUBLISHED, misordered, residuals
from rexnet.study.run import RankConfig

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
    assert "100 networks a cell" in capsys.readouterr().out
    assert (tmp_path / "study/ranks.csv").read_bytes().startswith(first["ranks.csv"])
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seed", "1"])
    assert stop.value.code == 1 and "was made with --seed 0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"networks": 20}, "--networks is 20; allowed: a multiple of 50"),
        ({"processes": 0}, "--processes is 0; allowed: 1 or more, or -1"),
        ({"address": "tcp://a:1"}, "--address is tcp://a:1; allowed: with --backend dask or ray only"),
    ],
)
def test_options_that_cannot_be(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        RankConfig(**fields)


def test_the_published_curves_have_no_residual_with_themselves():
    for block, curves in PUBLISHED.items():
        assert set(residuals(block, curves)) == {0.0}
        assert misordered(block, curves) == []
    swapped = {**PUBLISHED["conv1x1"], "silu": PUBLISHED["conv1x1"]["relu"], "relu": PUBLISHED["conv1x1"]["silu"]}
    assert "silu > relu at 0.1" in misordered("conv1x1", swapped)
