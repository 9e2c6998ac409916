import pytest

from rexnet.detection.recipes import make_recipe


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "ssdlite"])
@pytest.mark.parametrize("name", ["small", "1x", "2x", "3x"])
def test_recipes_are_for_their_detector(kind, name):
    recipe = make_recipe(name, kind, data="d")
    assert recipe.network.detector == kind and recipe.recipe == name and recipe.data == "d"
    recipe.check()
    assert all(milestone < recipe.schedule.epochs for milestone in recipe.schedule.decay_milestones or ())
    sizes_px = {"small": (512, 853)}.get(name, (1200, 800)[::-1])
    assert (recipe.network.min_size, recipe.network.max_size) == ((None, None) if kind == "ssdlite" else sizes_px)
