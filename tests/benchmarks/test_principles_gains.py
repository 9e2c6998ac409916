import json

from scipy import stats

import principles_gains
import records


def test_the_interval_is_that_of_the_paired_t_test():
    before, after = [50.0, 52.0, 49.5, 51.0], [51.5, 52.5, 52.0, 51.8]
    low, high = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert principles_gains.gain(before, after) == f"+1.32 ({low:+.2f} to {high:+.2f})"
    assert principles_gains.gain([50.0], [49.0]) == "-1.00, one seed"


def test_only_seeds_of_both_networks_and_of_one_setting_are_compared(tmp_path, monkeypatch):
    rows = [
        {"pair": "A", "width": 0.5, "epochs": epochs, "images_per_class": 10, "rewritten": rewritten, "seed": seed}
        for epochs, rewritten, seed in [
            (1, False, 0),
            (1, True, 0),
            (1, False, 1),
            (1, True, 1),
            (1, True, 2),
            (2, True, 0),
        ]
    ]
    figures = ({**row, "macs": 1e6, "parameters": 1e6, "top1_percent": 10.0 + 2 * row["rewritten"]} for row in rows)
    (tmp_path / "principles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in figures))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    _, *lines = principles_gains.gains()
    assert [line[3:] for line in lines] == [["2", "10.00 ± 0.00", "12.00 ± 0.00", "+2.00 (+2.00 to +2.00)"]]
