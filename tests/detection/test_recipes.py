import pytest

from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.recipes import EPOCHS, make_recipe, small


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "ssdlite"])
@pytest.mark.parametrize("name", ["small", "1x", "2x", "3x"])
def test_recipes_are_for_their_detector(kind, name, shapes):
    recipe = make_recipe(DetectTrainConfig(data=str(shapes), recipe=name, network=DetectorOptions(detector=kind)))
    assert recipe.network.detector == kind and recipe.recipe == name and recipe.data == str(shapes)
    recipe.check()
    assert all(milestone < recipe.schedule.epochs for milestone in recipe.schedule.decay_milestones or ())
    sizes_px = {"small": (512, 853)}.get(name, (1200, 800)[::-1])
    assert (recipe.network.min_size, recipe.network.max_size) == ((None, None) if kind == "ssdlite" else sizes_px)


def test_ssdlite_without_weights_is_trained_as_scratch_trains_classifiers():
    scratch, tuned = (small("d", kind="ssdlite", epochs=10, pretrained=pretrained) for pretrained in (False, True))
    chosen = [
        (config.optim.optimizer, config.schedule.warmup_epochs, config.network.zero_init_last, config.run.batch_size)
        for config in (scratch, tuned)
    ]
    assert chosen == [("muon", 2.0, True, 8), ("adamw", 1.0, False, 16)]
    assert scratch.schedule.epochs == tuned.schedule.epochs == EPOCHS
