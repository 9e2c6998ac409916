import pytest

from rexnet.training.budget import Budget, batch_size_for, follow_budget
from rexnet.training.recipes import scratch


@pytest.mark.parametrize(
    ("images", "epochs", "optimizer", "smallest_crop", "policy"),
    [
        (1000, 20, "muon", 0.5, None),
        (1_000_000, 30, "muon", 0.5, None),
        (1000, 60, "muon", 0.5, None),
        (3200, 100, "muon", 0.35, None),
        (3232, 100, "sgd", 0.25, "rand-m7-mstd0.5"),
    ],
)
def test_augmentation_and_optimizer_follow_the_budget(images, epochs, optimizer, smallest_crop, policy):
    config = follow_budget(scratch(), Budget(images=images, epochs=epochs, batch_size=32))
    assert (config.optim.optimizer, config.augment.crop_scale[0]) == (optimizer, smallest_crop)
    assert config.augment.auto_augment == policy and config.network.zero_init_last


@pytest.mark.parametrize(
    ("images", "epochs", "usual", "batch_size"),
    [(170, 5, 32, 8), (170, 10, 32, 16), (170, 20, 32, 32), (1067, 5, 32, 32), (2000, 5, 64, 64), (3, 5, 32, 8)],
)
def test_few_images_are_trained_on_in_smaller_batches(images, epochs, usual, batch_size):
    assert batch_size_for(images, epochs=epochs, usual=usual) == batch_size
