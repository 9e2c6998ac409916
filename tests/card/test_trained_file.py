import pytest

from rexnet.card.trained_file import wilson_interval


@pytest.mark.parametrize(
    ("percent", "count", "low", "high"),
    # Of the closed form worked out by hand for 0 of n: 0 and z^2 / (n + z^2).
    [(0.0, 10, 0.0, 27.7533), (100.0, 10, 72.2467, 100.0), (50.0, 100, 40.3832, 59.6168)],
)
def test_wilson(percent, count, low, high):
    assert wilson_interval(percent, count) == pytest.approx((low, high), abs=1e-3)
