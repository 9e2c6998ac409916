"""Settings of a search."""

import pytest

from rexnet.search.candidates import SearchData
from rexnet.search.config import ImageOptions, SearchConfig
from rexnet.search.recipes import constrain, known_constraint
from rexnet.search.space import Space


def test_options_that_contradict_are_refused(search_config):
    for engine, words in (
        ({"objectives": ("accuracy", "macs"), "sampler": "cmaes"}, "--sampler is cmaes"),
        ({"objectives": ("accuracy", "macs")}, "--min-share is 1.0"),
        ({"objectives": ("accuracy", "macs"), "prune_worst": 0.2}, "--prune-worst"),
        ({"objectives": ()}, "--objectives is empty"),
        ({"objectives": ("latency",), "processes": 2}, "--processes is 2; allowed: 1 with the objective latency"),
        ({"candidates": 0}, "--candidates is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            search_config(**engine)


def test_a_search_with_other_limits_is_not_the_papers():
    space = constrain(Space(), "a")
    assert known_constraint(SearchConfig(constraint="a", space=space)) == "a"
    assert known_constraint(SearchConfig(space=space)) is None
    assert known_constraint(SearchConfig(constraint="a", space=constrain(space, "b"))) is None


def test_the_data_describes_its_validation_split():
    data = SearchData.load("digits", ImageOptions(image_size=8, shots=3, val_shots=2), seed=0)
    assert len(data.sets.val) == len(data.val.targets) == 20
    assert "; 2 of each class to validate on)" in data.sets.description
