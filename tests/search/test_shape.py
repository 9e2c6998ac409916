"""Shapes of channels over the blocks, and the linear rule."""

import numpy as np
import pytest

from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.search.recipes import SEARCHES
from rexnet.search.shape import Line, fit_line
from rexnet.search.space import Space, scaled_config


def test_a_line_is_found_exactly():
    line = fit_line([7.0 + 3.5 * block for block in range(1, 10)])
    assert (line.slope, line.offset, line.residual) == pytest.approx((3.5, 7.0, 0.0), abs=1e-9)


def test_no_other_line_is_nearer():
    channels = np.array([3, 9, 4, 12, 30])
    line = fit_line(channels)
    blocks = np.arange(1, 6)
    best = np.square(channels - line.slope * blocks - line.offset).sum()
    assert line.residual == pytest.approx(np.sqrt(best / 5) / channels.mean())
    for slope, offset in ((0.01, 0), (-0.01, 0), (0, 0.05), (0, -0.05)):
        assert np.square(channels - (line.slope + slope) * blocks - line.offset - offset).sum() > best


@pytest.mark.parametrize("name", SEARCHES)
def test_the_published_best_is_nearer_to_a_line_than_the_worst(name):
    assert fit_line(SEARCHES[name].best).residual < 0.4 * fit_line(SEARCHES[name].worst).residual


@pytest.mark.parametrize("name", ["b", "c"])
def test_published_best_networks_are_their_lines(name):
    best = SEARCHES[name].best
    assert np.abs(np.subtract(fit_line(best).channels(len(best)), best)).max() <= 1


def test_a_family_grows_with_its_width():
    line, space = fit_line(SEARCHES["b"].best), Space(blocks=9)
    costs = []
    for width in (0.5, 1.0, 2.0):
        config = scaled_config(line, space, width=width, num_classes=10)
        assert [block.out_channels for block in config.blocks] == list(line.channels(9, width=width))
        assert config.stem_channels == max(16, round(16 * width))
        assert config.penultimate_channels == round(1280 * width)
        costs.append(measure_cost(RexNet(config), 32).macs)
    assert costs[0] < 0.4 * costs[1] < 0.4 * 0.4 * costs[2]


def test_impossible_lines_are_refused():
    with pytest.raises(ValueError, match="two or more"):
        fit_line([4])
    with pytest.raises(ValueError, match="allowed: 1 or more"):
        Line(10.0, -12.0).channels(5)
    for channels in ([0, 0, 0], [4, float("nan"), 6], [4, -1, 6]):
        with pytest.raises(ValueError, match="allowed: finite numbers above 0"):
            fit_line(channels)
    for width in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="allowed: 1 or more in each block"):
            scaled_config(Line(10.0, 0.0), Space(), width=width)
