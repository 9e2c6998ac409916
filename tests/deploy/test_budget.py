import random
from dataclasses import replace

import pytest

from rexnet.deploy.budget import fit_budget
from rexnet.deploy.config import BudgetConfig
from rexnet.deploy.width_search import Measured, network_cost
from rexnet.errors import OptionError


class Machine:
    """A cost law: a fixed part, a part for each multiply-accumulate and a bend, with errors of `noise`."""

    def __init__(self, *, base=2.0, per_gmac=20.0, bend=0.0, noise=0.0, seed=0):
        self.base, self.per_gmac, self.bend, self.noise = base, per_gmac, bend, noise
        self.random = random.Random(seed)
        self.measured = 0

    def true_ms(self, name, size_px):
        gmacs = network_cost(name, size_px, 2, 1000).macs / 1e9
        return self.base + self.per_gmac * gmacs * (1 + self.bend * gmacs)

    def __call__(self, name, size_px):
        self.measured += 1
        error = self.random.uniform(-self.noise, self.noise)
        macs = network_cost(name, size_px, 2, 1000).macs
        return Measured(latency_ms=self.true_ms(name, size_px) * (1 + error), peak_mib=300 + macs / 1e7)


def chosen(machine, latency_ms, **options):
    return fit_budget(BudgetConfig(latency_ms=latency_ms, **{"size": 224, **options}), machine).chosen


@pytest.mark.seconds
@pytest.mark.parametrize("family", ["rexnet", "rexnet_lite"])
def test_the_widest_within_the_budget_is_found_despite_nonlinear_and_noisy_times(family):
    for latency_ms in (5.0, 9.0, 40.0):
        for seed, machine in enumerate(Machine(bend=bend, noise=0.04, seed=7) for bend in (0.0, 0.1)):
            found = chosen(machine, latency_ms, family=family)
            assert found.measured.latency_ms <= latency_ms, (latency_ms, seed)
            assert machine.true_ms(found.model, 224) >= 0.88 * latency_ms
            assert machine.true_ms(found.model, 224) <= 1.045 * latency_ms
            assert machine.measured <= 17


@pytest.mark.seconds
def test_a_larger_budget_never_gives_a_narrower_network():
    widths = [chosen(Machine(), latency_ms).hundredths for latency_ms in (4, 5, 6, 9, 13, 20, 30)]
    assert widths == sorted(widths) and len(set(widths)) == len(widths)


@pytest.mark.parametrize("disturbed", [1, 99])
def test_a_wider_network_measured_as_faster_is_measured_again_and_reported(disturbed):
    """rexnet_050 takes three times as long, the first time or always."""
    times = []

    def measure(name, size_px):
        times.append(name)
        quiet = machine(name, size_px)
        slow = name == "rexnet_050" and times.count(name) <= disturbed
        return replace(quiet, latency_ms=3 * quiet.latency_ms) if slow else quiet

    machine = Machine()
    found = fit_budget(BudgetConfig(latency_ms=14.0, size=224), measure)
    assert times.count("rexnet_050") >= 2
    if disturbed == 1:
        assert found.doubt is None and found.chosen.model == chosen(Machine(), 14.0).model
    else:
        assert found.doubt.startswith("rexnet_100 was faster than rexnet_050 at 224 px in two measurements (")


@pytest.mark.seconds
def test_memory_limits_too_and_smaller_images_allow_wider_networks():
    found = fit_budget(BudgetConfig(latency_ms=10.0), Machine())
    assert [one.image_size_px for one in (found.chosen, *found.others)] == [224, 192, 160]
    assert found.chosen.hundredths < found.others[0].hundredths < found.others[1].hundredths
    assert found.train_command == f"rexnet train DATA --model {found.chosen.model} --image-size 224"
    narrow = chosen(Machine(), 10.0, memory_mb=320.0)
    assert 304 <= narrow.measured.peak_mib <= 320 and narrow.hundredths < found.chosen.hundredths


def test_a_budget_that_no_network_meets_is_refused_with_the_smallest_cost():
    machine = Machine(base=3.0)
    takes = f"{machine.true_ms('rexnet_010', 224):.2f} ms at 224 px"
    with pytest.raises(ValueError, match=f"no rexnet stays within 1 ms here: rexnet_010, the smallest, takes {takes}"):
        chosen(machine, 1.0)
    with pytest.raises(OptionError, match="--family is resnet; allowed: rexnet, rexnetr, rexnet_lite"):
        BudgetConfig(latency_ms=1.0, family="resnet")


@pytest.mark.seconds
def test_networks_are_measured_on_this_machine():
    config = BudgetConfig(
        latency_ms=1e-6, family="rexnet_lite", size=32, num_classes=2, backend="torch", threads=1, rounds=2
    )
    with pytest.raises(ValueError, match=r"rexnet_lite_010, the smallest, takes [\d.]+ ms at 32 px \(torch fp32\)"):
        fit_budget(config)
