from fit_rank_protocol import misordered, residuals

from rexnet.study.published import PUBLISHED


def test_the_published_curves_have_no_residual_with_themselves():
    for block, curves in PUBLISHED.items():
        assert set(residuals(block, curves)) == {0.0}
        assert misordered(block, curves) == []
    swapped = {**PUBLISHED["conv1x1"], "silu": PUBLISHED["conv1x1"]["relu"], "relu": PUBLISHED["conv1x1"]["silu"]}
    assert "silu > relu at 0.1" in misordered("conv1x1", swapped)
