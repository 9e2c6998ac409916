import pytest

from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.recipes import EPOCHS, make_recipe, small


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "ssdlite"])
@pytest.mark.parametrize("name", ["small", "1x", "2x", "3x"])
def test_recipes_are_for_their_detector(kind, name):
    recipe = make_recipe(DetectTrainConfig(data="d", recipe=name, network=DetectorOptions(detector=kind)))
    assert recipe.network.detector == kind and recipe.recipe == name and recipe.data == "d"
    recipe.check()
    assert all(milestone < recipe.schedule.epochs for milestone in recipe.schedule.decay_milestones or ())
    sizes_px = {"small": (512, 853)}.get(name, (1200, 800)[::-1])
    assert (recipe.network.min_size, recipe.network.max_size) == ((None, None) if kind == "ssdlite" else sizes_px)


def test_ssdlite_without_weights_is_trained_as_scratch_trains_classifiers():
    scratch, tuned = (small("d", kind="ssdlite", epochs=10, pretrained=pretrained) for pretrained in (False, True))
    assert (scratch.optim.optimizer, scratch.schedule.warmup_epochs, scratch.network.zero_init_last) == (
        "muon",
        2.0,
        True,
    )
    assert (tuned.optim.optimizer, tuned.schedule.warmup_epochs, tuned.network.zero_init_last) == ("adamw", 1.0, False)
    assert scratch.schedule.epochs == tuned.schedule.epochs == EPOCHS
