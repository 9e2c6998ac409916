import time

import pytest

from rexnet.training.progress import EpochProgress, speed_text


def test_counts_images_means_and_waiting(capsys):
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    with EpochProgress("epoch 1/1", 3) as progress:
        for number in progress.watch(slow()):
            time.sleep(0.05)
            progress.update(10 if number else 20, {"loss": float(number), "top1": 50.0})
    assert progress.images == 40
    assert progress.means() == {"loss": pytest.approx((0 * 20 + 1 * 10 + 2 * 10) / 40), "top1": 50.0}
    assert progress.sums == {"loss": 30.0, "top1": 2000.0}
    assert 0.3 < progress.wait_share < 0.7
    assert progress.images_per_second == pytest.approx(40 / 0.3, rel=0.5)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "", "nothing is drawn outside a terminal"


def test_an_error_inside_goes_through():
    with pytest.raises(KeyError), EpochProgress("epoch 1/1", 3) as progress:
        for _ in progress.watch([1, 2]):
            raise KeyError


def test_a_bar_in_a_terminal_shows_what_was_promised(monkeypatch):
    import io

    from rich.console import Console

    from rexnet.training import progress as module

    screen = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=140))
    with EpochProgress("epoch 2/9", 4) as progress:
        for _ in progress.watch(range(4)):
            progress.update(8, {"loss": 0.25, "top1": 87.5})
        progress._bar.refresh()
    for words in ("epoch 2/9", "4/4", "images/s", "loss 0.25", "top1 87.5", "waiting for data"):
        assert words in screen.getvalue(), words


def test_a_slow_run_has_a_speed_too():
    assert [speed_text(speed) for speed in (0.078, 1.26, 31.4)] == ["0.08 images/s", "1.3 images/s", "31 images/s"]
