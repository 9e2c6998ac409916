"""The space of the search: what is published is in it, and everything drawn keeps to its limits."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.search.recipes import SEARCHES
from rexnet.search.shape import Shape, shape_variables, stage_wise, straight, suggest_shape
from rexnet.search.space import Space

PUBLISHED = [(name, kind, getattr(row, kind)) for name, row in SEARCHES.items() for kind in ("best", "worst")]
PARAMETERS_M = {
    ("a", "best"): 0.204,
    ("a", "worst"): 0.200,
    ("b", "best"): 0.513,
    ("b", "worst"): 0.508,
    ("c", "best"): 1.040,
    ("c", "worst"): 1.054,
    ("d", "best"): 3.075,
    ("d", "worst"): 3.095,
}
MFLOPS = {
    ("b", "best"): 100.4,
    ("b", "worst"): 101.8,
    ("c", "best"): 193,
    ("c", "worst"): 205,
    ("d", "best"): 354,
    ("d", "worst"): 356,
}


def space_of(name: str) -> Space:
    row = SEARCHES[name]
    return Space(blocks=row.blocks, max_parameters=row.max_parameters, max_macs=row.max_macs)


class Dice:
    """Draws as Optuna's random sampler does, a hundred times faster."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)

    def suggest_float(self, name, low, high, *, log=False):
        if log:
            return float(np.exp(self.generator.uniform(np.log(low), np.log(high))))
        return float(self.generator.uniform(low, high))

    def suggest_int(self, name, low, high):
        return int(self.generator.integers(low, high + 1))


class Given:
    """Values in the place of random ones."""

    def __init__(self, variables: dict[str, float]):
        self.variables = variables

    def suggest_float(self, name, low, high, *, log=False):
        return self.variables[name]

    def suggest_int(self, name, low, high):
        return int(self.variables[name])


def shape_of(channels) -> Shape:
    profile = tuple((value - channels[0]) / (channels[-1] - channels[0]) for value in channels)
    return Shape(growth=channels[-1] / channels[0], profile=profile)


@pytest.mark.parametrize(("name", "kind", "channels"), PUBLISHED)
def test_published_networks_have_their_parameters_and_flops(name, kind, channels):
    cost = space_of(name).cost(channels)
    assert cost.parameters / 1e6 == pytest.approx(PARAMETERS_M[name, kind], abs=0.0006)
    if name == "a":  # Table 3 has 30 +- 1
        assert cost.published_flops / 1e6 == pytest.approx(30, abs=1)
    else:
        assert cost.published_flops / 1e6 == pytest.approx(MFLOPS[name, kind], abs=0.5)


@pytest.mark.parametrize(("name", "kind", "channels"), PUBLISHED)
def test_published_networks_are_in_the_space(name, kind, channels):
    space = space_of(name)
    assert space.fits(channels)
    shape = suggest_shape(Given(shape_variables(shape_of(channels))), blocks=space.blocks, max_growth=space.max_growth)
    exact = Space(blocks=space.blocks, max_parameters=space.cost(channels).parameters)
    assert exact.widest(shape) == channels


@pytest.mark.parametrize("name", ["b", "c", "d"])
def test_two_limits_determine_the_papers_line(name):
    """From f alone, the published worst networks come out again, up to a channel in the last block."""
    worst = SEARCHES[name].worst
    assert np.abs(np.subtract(space_of(name).widest(shape_of(worst)), worst)).max() <= 1


@pytest.mark.parametrize("name", SEARCHES)
def test_a_thousand_draws_keep_both_limits_and_use_one(name):
    space = space_of(name)
    dice = Dice(0)
    both = 0
    for _ in range(1000):
        channels = space.suggest(dice)
        assert all(before <= after for before, after in pairwise(channels))
        cost = space.cost(channels)
        shares = cost.parameters / space.max_parameters, cost.macs / space.max_macs
        assert max(shares) <= 1.0
        assert max(shares) >= 0.95
        both += min(shares) >= 0.95
    # As the paper's groups, whose candidates all have about the same of both.
    assert both >= {"a": 1000, "b": 850, "c": 800, "d": 200}[name]


@pytest.mark.seconds
@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 9},
        {"blocks": 4, "strided_blocks": (1, 4), "stem_stride": 2},
        {"blocks": 5, "penultimate_channels": 0, "expand_ratio": 1, "cost_size": 37},
        {"blocks": 16, "stem_channels": 32, "stem_stride": 2, "cost_size": 224, "strided_blocks": (2, 4, 6, 12)},
    ],
)
def test_closed_form_counts_what_the_package_counts(options):
    space = Space(max_macs=1e9, **options)
    dice = np.random.default_rng(1)
    for _ in range(3):
        channels = tuple(np.sort(dice.integers(1, 60, space.blocks)).tolist())
        cost = space.cost(channels)
        with torch.device("meta"):
            network = RexNet(space.config(channels))
        measured = measure_cost(network, space.cost_size)
        assert (cost.parameters, cost.macs) == (measured.parameters, measured.macs)


@pytest.mark.parametrize("blocks", [3, 5, 9, 13, 20])
def test_lines_and_stages_are_in_the_space_at_any_depth(blocks):
    space = Space(blocks=blocks, max_macs=1e8)
    line = space.widest(straight(blocks, 3.0))
    assert np.abs(np.diff(line, n=2)).max(initial=0) <= 1
    stages = space.widest(stage_wise(space.strides, 3.0))
    rises = [block for block in range(2, blocks + 1) if stages[block - 1] > stages[block - 2]]
    assert rises == [block for block, stride in enumerate(space.strides, start=1) if stride == 2]
    for shape in (straight(blocks, 3.0), stage_wise(space.strides, 3.0)):
        sampled = suggest_shape(Given(shape_variables(shape)), blocks=blocks, max_growth=12.0)
        assert sampled.heights == pytest.approx(shape.heights)


def test_any_fraction_of_the_limits_is_respected():
    space = Space(blocks=5, max_parameters=0.4e6, max_macs=60e6, min_share=0.2)
    dice = Dice(3)
    costs = [space.cost(space.suggest(dice)) for _ in range(100)]
    shares = [max(cost.parameters / 0.4e6, cost.macs / 60e6) for cost in costs]
    assert max(shares) <= 1.0
    assert min(shares) < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "there is no limit"),
        (
            {"max_parameters": 9000.0, "min_share": 0.5},
            r"the limits are --max-parameters 9000 times 0.5 \(--min-share\); allowed: 7,922",
        ),
        ({"max_macs": 1000.0}, "the limits are --max-macs 1000; allowed: 7,922 parameters and 3,284,480"),
    ],
)
def test_impossible_limits_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        space = Space(**options)
        space.widest(straight(9, 2.0), space.min_share)


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 2},
        {"max_macs": 0.0},
        {"min_share": 0.0},
        {"max_macs": float("inf")},
        {"max_growth": 1.0},
        {"max_growth": float("inf")},
        {"strided_blocks": (4, 2)},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="allowed"):
        Space(**options)
