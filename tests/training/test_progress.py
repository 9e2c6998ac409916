import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from rexnet.training import progress as module
from rexnet.training.progress import EpochProgress, hours_warning, smaller_size, speed_text


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_counts_images_means_and_waiting(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def slow():
        for number in range(3):
            now[0] += 3.0
            yield number

    with EpochProgress("epoch 1/1", 3) as progress:
        for number in progress.watch(slow()):
            now[0] += 1.0
            progress.update(10 if number else 20, {"loss": float(number), "top1": 50.0})
    assert progress.images == 40
    assert progress.means() == {"loss": pytest.approx((0 * 20 + 1 * 10 + 2 * 10) / 40), "top1": 50.0}
    assert progress.sums == {"loss": 30.0, "top1": 2000.0}
    assert progress.wait_share == 0.75
    assert progress.images_per_second == pytest.approx(40 / 12)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "", "nothing is drawn outside a terminal"


def test_an_error_inside_is_raised():
    with pytest.raises(KeyError), EpochProgress("epoch 1/1", 3) as progress:
        for _ in progress.watch([1, 2]):
            raise KeyError


def test_a_bar_in_a_terminal_shows_steps_loss_and_time(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=140))
    with EpochProgress("epoch 2/9", 4) as progress:
        for _ in progress.watch(range(4)):
            progress.update(8, {"loss": 0.25, "top1": 87.5})
        progress._bar.refresh()
    for shown in ("epoch 2/9", "4/4", "images/s", "loss 0.25", "top1 87.5", "waiting for data"):
        assert shown in screen.getvalue(), shown


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_narrow_terminal_keeps_steps_loss_and_time(monkeypatch, width):
    screen = Screen()
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=width))
    with EpochProgress("epoch 12/300", 1000, later_steps=288_000) as progress:
        for _ in progress.watch(range(400)):
            progress.update(8, {"loss": 0.25, "top1": 87.5})
        progress._bar.refresh()
    last = Text.from_ansi(screen.getvalue()).plain.splitlines()[-1].rpartition("epoch 12/300")[2]
    assert "400/1000" in last and "loss 0.25" in last and re.search(r"\d:\d\d", last), last
    assert ("run: " in last) == (width > 60) and ("waiting" in last) == (width == 140)


@pytest.mark.parametrize(
    ("screen", "variables"),
    [(io.StringIO, {}), (io.StringIO, {"FORCE_COLOR": "1"}), (Screen, {"TERM": "dumb"}), (Screen, {"TERM": "unknown"})],
    ids=["pipe", "coloured pipe", "dumb terminal", "unknown terminal"],
)
def test_without_a_bar_one_line_per_minute_estimates_the_end(screen, variables, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = screen()
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=output))
    clock = iter(range(0, 10_000, 10))  # every look at the clock is ten seconds later
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    with EpochProgress("epoch 1/2", 50, later_steps=50) as progress:
        for _ in range(50):
            progress.update(8, {"loss": 0.25})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= 8 and all("loss 0.25" in line and "left, until" in line for line in lines)
    assert re.match(r"epoch 1/2, step \d+/50: ", lines[0])
    assert not output.getvalue(), "no escape sequence or empty line among the log lines"


@pytest.mark.parametrize(
    ("seconds", "epoch_seconds", "options", "text"),
    [
        (7000, 70, ["--image-size 96"], None),
        (50_000, 500, ["--freeze all", "--image-size 96"], "--max-minutes 30 or --freeze all or --image-size 96"),
        (50_000, 2_000, [], "about 13 h 53 min on this CPU; shorter: --max-minutes 70"),
        (10_000, 10_000, ["--min-size 320"], "about 2 h 47 min on this CPU; shorter: --min-size 320"),
        (10_000, 10_000, [], "about 2 h 47 min on this CPU"),
    ],
)
def test_a_run_of_hours_is_reported_with_shorter_alternatives(seconds, epoch_seconds, options, text):
    warning = hours_warning(seconds, epoch_seconds=epoch_seconds, options=options)
    assert warning is None if text is None else warning is not None and warning.endswith(text)


def test_smaller_sizes_have_less_than_half_of_the_pixels():
    assert [smaller_size(size) for size in (64, 91, 96, 128, 160, 224, 512)] == [None, None, 64, 64, 96, 128, 352]


def test_a_slow_run_has_a_speed_too():
    assert [speed_text(speed) for speed in (0.078, 1.26, 31.4)] == ["0.08 images/s", "1.3 images/s", "31 images/s"]
