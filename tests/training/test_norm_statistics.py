import pytest
import torch
from torch import nn

from rexnet.training.norm_statistics import LastBatches, measure_norms


def test_statistics_are_means_over_the_batches_and_nothing_else_changes():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.3))
    model[0].running_mean.fill_(7.0)
    model[2].num_batches_tracked.fill_(5)
    weights = [parameter.clone() for parameter in model.parameters()]
    batches = torch.randn(4, 8, 3) + torch.arange(4.0)[:, None, None]
    measure_norms(model, model, batches)
    torch.testing.assert_close(model[0].running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(model[0].running_var, batches.var(1).mean(0))
    hidden = torch.stack([model[1](nn.functional.batch_norm(batch, None, None, training=True)) for batch in batches])
    torch.testing.assert_close(model[2].running_var, hidden.var(1).mean(0), rtol=1e-4, atol=1e-5)
    assert (model[2].momentum, int(model[2].num_batches_tracked)) == (0.3, 5)
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


def test_frozen_norms_stay_and_batches_that_are_not_finite_do_not_count():
    frozen, norm = nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3)
    batches = torch.randn(3, 8, 3)
    spoiled = [batches[0], torch.full((8, 3), torch.nan), batches[1], batches[2]]
    measure_norms(nn.ModuleList([frozen, norm]), lambda batch: (frozen(batch), norm(batch)), spoiled)
    assert frozen.running_mean.tolist() == [0.0] * 3
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))
    measure_norms(norm, norm, spoiled[1:2])
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))


class Numbers:
    images_per_batch, num_images = 4, 40

    def __len__(self):
        return 10

    def epoch(self, epoch, start_step=0):
        yield from (100 * epoch + number for number in range(start_step, 10))


@pytest.mark.parametrize(("images", "count"), [(0, 0), (1, 1), (9, 3), (1000, 10)])
@pytest.mark.parametrize("start", [0, 8, 10])
def test_the_last_batches_are_the_same_after_any_interruption(images, count, start):
    last = LastBatches(Numbers(), images)
    assert list(last.watch(Numbers().epoch(3, start))) == list(range(300 + start, 310))
    assert last.of(3) == list(range(310 - count, 310))
