import pytest

import paper_claims
import render


@pytest.mark.parametrize(
    ("low", "high", "published", "verdict"),
    [
        (3.0, 8.0, 6.6, "reproduced"),
        (1.0, 3.0, 6.6, "direction only"),
        (-0.5, 7.0, 6.6, "not reproduced"),
        (-3.0, -1.0, 6.6, "not reproduced"),
        (-3.0, -1.0, -2.0, "reproduced"),
    ],
)
def test_an_effect_needs_an_interval_without_zero_that_reaches_the_published_value(low, high, published, verdict):
    assert paper_claims.effect_verdict(low, high, published) == verdict


def test_a_printed_digit_may_be_rounded_or_truncated():
    assert paper_claims.unit("0.86") == pytest.approx(0.01)
    assert paper_claims.unit("34") == 1
    assert paper_claims.signed(-0.003, 1) == "+0.0"


@pytest.mark.seconds
def test_claims_without_rows_are_not_tried_and_the_map_has_no_better_verdict():
    verdicts: dict[str, set[str]] = {}
    for claim in paper_claims.claims():
        assert bool(claim.ours) == (claim.verdict != "not tried"), claim
        verdicts.setdefault(claim.part.partition(" (")[0].partition(",")[0], set()).add(claim.verdict)
    assert verdicts["Table 2"] <= {"not reproduced", "not tried"}
    assert "not reproduced" in verdicts["Table 3"]
    table_2 = next(line for line in (render.ROOT / "docs/paper_map.md").read_text().splitlines() if "Table 2" in line)
    assert table_2.endswith("| not reproduced |")
