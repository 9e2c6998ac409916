"""The engine: as many candidates as asked, by one process or several, through stops and kills, and none twice."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rexnet.errors import NonFiniteError
from rexnet.search import run, storage
from rexnet.search.candidates import CandidateTrainer
from rexnet.search.results import candidates_of
from rexnet.search.run import search
from rexnet.search.storage import existing_study, load_study, open_storage
from rexnet.training.interruption import Stopped
from tests.search.conftest import other

optuna = pytest.importorskip("optuna")


def drawn(found):
    return [row for row in found if row.comparison is None]


def states(config):
    return [trial.state.name for trial in existing_study(config.engine).get_trials()]


@pytest.mark.slow
def test_real_training_from_pixels_to_accuracy(search_config):
    config = search_config(candidates=1)
    config = other(config, "schedule", epochs=12)
    found = search(config)
    assert [row.comparison for row in found] == ["line", "stages", None]
    for row in found:
        assert config.space.fits(row.channels)
        assert len(row.by_epoch[0]) == 12
        assert max(row.by_epoch[0]) == row.accuracy == row.values[0]
        assert row.accuracy > 50  # of ten digits
        assert row.scores["effective_rank"] > 0
    assert not list(Path(config.engine.output).glob("unfinished/*"))


@pytest.mark.seconds
def test_a_search_is_repeatable_by_its_seed(search_config, tmp_path, instant_training):
    first = search(search_config(tmp_path / "one", candidates=4))
    second = search(search_config(tmp_path / "two", candidates=4))
    third = search(search_config(tmp_path / "three", candidates=4, seed=1))
    assert [row.channels for row in first] == [row.channels for row in second]
    assert [row.channels for row in drawn(first)] != [row.channels for row in drawn(third)]


@pytest.mark.seconds
def test_no_network_is_trained_twice_and_all_candidates_differ(search_config, instant_training):
    found = search(search_config(candidates=8, comparisons=2))
    assert len({row.channels for row in drawn(found)}) == 8
    of_comparisons = [row.channels for row in found if row.comparison]
    trained = list(instant_training)
    for channels in of_comparisons:
        trained.remove(channels)
    assert len(trained) == len(set(trained)) == 8


@pytest.mark.seconds
def test_a_space_with_few_networks_ends_the_search(search_config, instant_training, caplog, monkeypatch):
    monkeypatch.setattr(run, "_TRIALS_PER_CANDIDATE", 2)
    config = search_config(candidates=10, comparisons=0)
    found = search(replace(config, space=replace(config.space, blocks=3, max_parameters=4500, max_macs=None)))
    assert len(found) == 20
    assert len({row.channels for row in found}) < 10
    assert "the space holds few more" in caplog.text


@pytest.mark.seconds
def test_comparisons_do_not_count_as_candidates_that_exhaust_a_space(search_config, instant_training, monkeypatch):
    monkeypatch.setattr(run, "_TRIALS_PER_CANDIDATE", 2)
    assert len(drawn(search(search_config(candidates=1, comparisons=3)))) == 1


def test_repeats_are_averaged(search_config, instant_training):
    config = other(search_config(candidates=2, comparisons=0), "training", repeats=3)
    found = search(config)
    assert len(instant_training) == 6
    for row in found:
        assert len(row.accuracies) == len(row.by_epoch) == 3
        assert len(set(row.accuracies)) == 3  # each has its own seed
        assert row.values[0] == pytest.approx(sum(row.accuracies) / 3)


@pytest.mark.seconds
@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_samplers_continue_where_a_search_ended(search_config, instant_training, sampler):
    first = search(search_config(candidates=12, sampler=sampler))
    more = search(search_config(candidates=13, sampler=sampler))
    assert more[: len(first)] == first
    assert len({row.channels for row in drawn(more)}) >= 13


@pytest.mark.seconds
def test_hopeless_candidates_are_stopped(search_config, instant_training):
    found = drawn(search(search_config(candidates=18, comparisons=0, prune_worst=0.25)))
    pruned = [row for row in found if row.pruned]
    whole = [row for row in found if not row.pruned]
    assert 1 <= len(pruned) <= 7
    assert all(row.accuracy is None for row in pruned)
    # Spared were the ten first ones, and those above the worst quarter of the ones before them.
    assert [row.number for row in whole[:10]] == list(range(10))
    worst = sorted(row.accuracy for row in whole[:10])[1]
    assert all(row.accuracy >= worst for row in whole[10:])


@pytest.mark.seconds
def test_several_objectives_have_a_front(search_config):
    config = other(search_config(), "space", min_share=0.6)
    config = other(config, "engine", objectives=("effective_rank", "macs", "latency"), candidates=5)
    found = search(config)
    for row in found:
        assert row.accuracy is None  # nothing was trained
        assert row.values == (row.scores["effective_rank"], row.macs, row.latency_ms)
    assert len({row.macs for row in found}) > 3
    assert existing_study(config.engine).best_trials


def test_a_network_that_diverges_is_abandoned(search_config, monkeypatch, caplog):
    calls = []

    def train(self, channels, *, seed, folder, watch=None):
        calls.append(channels)
        if len(calls) == 2:
            raise NonFiniteError("the loss is nan")
        return [50.0]

    monkeypatch.setattr(CandidateTrainer, "train", train)
    found = search(search_config(candidates=3, comparisons=0))
    assert [row.pruned for row in found] == [False, True, False]
    assert "the loss is nan" in caplog.text


@pytest.mark.seconds
def test_a_stopped_trial_is_enqueued_again(search_config, monkeypatch):
    config = search_config(candidates=3, comparisons=0)
    calls = []

    def train(self, channels, *, seed, folder, watch=None):
        calls.append(channels)
        if len(calls) == 2:
            raise Stopped(signal.SIGTERM)
        return [50.0 + len(calls)]

    monkeypatch.setattr(CandidateTrainer, "train", train)
    with pytest.raises(Stopped):
        search(config)
    assert states(config) == ["COMPLETE", "FAIL", "WAITING"]
    before = candidates_of(existing_study(config.engine))
    found = search(config)
    assert found[:1] == before
    assert calls[1] == calls[2]  # the very same candidate
    assert len(found) == 3


def test_an_error_loses_no_results(search_config, monkeypatch):
    """As a full disk: when it is mended, the same candidate is taken up again."""
    config = search_config(candidates=2, comparisons=1)
    calls = []

    def train(self, channels, *, seed, folder, watch=None):
        calls.append(channels)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return [50.0]

    monkeypatch.setattr(CandidateTrainer, "train", train)
    with pytest.raises(OSError, match="No space left"):
        search(config)
    assert [row.comparison for row in search(config)] == ["line", "stages", None, None]
    assert calls[1] == calls[2]


@pytest.mark.seconds
@pytest.mark.parametrize("candidates", [1, 3])
def test_a_killed_trial_is_enqueued_again_without_heartbeat(search_config, instant_training, caplog, candidates):
    """Also where nothing else is missing."""
    caplog.set_level(logging.INFO)
    config = search_config(candidates=1, comparisons=0)
    first = {row.channels for row in search(config)}
    study = load_study(config.engine, open_storage(config.engine))
    with pytest.warns(UserWarning, match="Heartbeat"):
        dead = study.ask()  # as a process that then dies
    channels = config.space.suggest(dead)
    study._storage.record_heartbeat(dead._trial_id)  # pyright: ignore
    assert len(search(config)) == 1
    assert "1 candidate still running in other processes" in caplog.text
    with closing(sqlite3.connect(config.engine.database)) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00.000000'")
    found = search(other(config, "engine", candidates=candidates))
    assert channels in {row.channels for row in found}
    assert states(config)[1] == "FAIL"
    # The dead trial was drawn without a seed, so its candidate may be the first one again.
    assert len({row.channels for row in found}) == max(len({*first, channels}), candidates)


@pytest.mark.seconds
def test_half_a_training_is_not_lost(search_config, monkeypatch):
    """A kill after some epochs: the same candidate goes on from there, and ends as if it had never been stopped."""
    config = search_config(candidates=1, comparisons=0)
    whole = search(search_config(Path(config.engine.output).with_name("whole"), candidates=1, comparisons=0))
    task_of = CandidateTrainer.train
    epochs = []

    def train(self, channels, *, seed, folder, watch=None):
        def stop_after_two(epoch, accuracy):
            epochs.append(epoch)
            if len(epochs) == 3:
                raise Stopped(signal.SIGTERM)

        return task_of(self, channels, seed=seed, folder=folder, watch=stop_after_two)

    monkeypatch.setattr(CandidateTrainer, "train", train)
    with pytest.raises(Stopped):
        search(config)
    found = search(config)
    assert epochs == [1, 2, 3, 3, 4]
    assert found[0].by_epoch == whole[0].by_epoch


COMMAND = (
    "search run digits --blocks 4 --max-parameters 50e3 --max-macs 400e3 --cost-size 8 --penultimate-channels 64 "
    "--image-size 8 --shots 20 --val-shots 10 --epochs 2 --comparisons 1 --sampler random --device cpu"
)


def start(folder, *words, env=None):
    command = [sys.executable, "-m", "rexnet", *COMMAND.split(), "--output", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.slow
def test_two_processes_share_one_search(tmp_path):
    process = start(tmp_path / "search", "--candidates", "5", "--processes", "2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = found_so_far(tmp_path / "search")
    trained = [row.channels for row in drawn(found) if row.seconds is not None]
    assert len(trained) == len(set(trained)) >= 5
    assert sorted(row.comparison for row in found if row.comparison) == ["line", "stages"]
    assert output.count("candidate ") >= 7


def found_so_far(folder):
    try:
        return candidates_of(existing_study(storage.EngineOptions(output=str(folder))))
    except ValueError:  # not begun yet
        return []


@pytest.mark.slow
def test_two_commands_share_one_search_and_one_may_be_killed(tmp_path):
    folder = tmp_path / "search"
    first, second = start(folder, "--candidates", "6"), start(folder, "--candidates", "6")
    deadline = time.monotonic() + 200
    while len(found_so_far(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.3)
    first.kill()
    first.communicate()
    before = found_so_far(folder)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    found = found_so_far(folder)
    assert [row for row in found if row.number in {other.number for other in before}] == before
    trained = [row.channels for row in drawn(found) if row.seconds is not None]
    assert len(trained) == len(set(trained)) >= 6


def test_other_settings_are_refused(search_config, instant_training, tmp_path, monkeypatch):
    config = search_config(candidates=1)
    search(config)
    with pytest.raises(ValueError, match=r"other settings: --epochs 9 \(was 4\)"):
        search(other(config, "schedule", epochs=9))
    study = load_study(config.engine, open_storage(config.engine))
    sentence = "digits: 200 train / 359 val images of 10 classes (its own split), {} val images measured on"
    study.set_user_attr("data", sentence.format(100))  # as version 0.1 noted it
    search(config)
    study.set_user_attr("data", sentence.format(50))
    with pytest.raises(ValueError, match="the data is not what the search started with"):
        search(config)
    monkeypatch.setattr(storage, "_WRITING_SECONDS", 0.0)
    optuna.create_study(storage=f"sqlite:///{tmp_path}/foreign.db", study_name="channels")
    with pytest.raises(ValueError, match="is not a search of rexnet"):
        search(search_config(storage=f"sqlite:///{tmp_path}/foreign.db"))
