from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rexnet.search.candidates import CandidateTrainer
from rexnet.search.config import CandidateOptions, EngineOptions, ImageOptions, SearchConfig
from rexnet.search.shape import fit_line
from rexnet.search.space import Space
from rexnet.training.config import ScheduleConfig

EPOCHS = 4


@pytest.fixture
def search_config(tmp_path) -> Callable[..., SearchConfig]:
    """search_config(candidates=6, ...): a search on digits whose trainings take a second or two."""

    return partial(make_config, tmp_path / "search")


def make_config(default: Path, folder: Path | None = None, **engine) -> SearchConfig:
    options = {"candidates": 3, "comparisons": 1, "sampler": "random", "device": "cpu", **engine}
    return SearchConfig(
        data="digits",
        space=Space(blocks=4, max_parameters=50_000, max_macs=400_000, cost_size=8, penultimate_channels=64),
        images=ImageOptions(image_size=8, shots=20, val_shots=10, crop_padding_px=1, horizontal_flip=0.0),
        training=CandidateOptions(batch_size=20),
        schedule=ScheduleConfig(epochs=EPOCHS, warmup_epochs=1.0),
        engine=EngineOptions(output=str(folder or default), **options),
    )


@pytest.fixture
def instant_training(monkeypatch) -> list[tuple[int, ...]]:
    """Trainings that compute their accuracy from the channels, the higher the nearer these are to a line; returns the
    list to which each training adds its channels."""
    return make_training_instant(monkeypatch)


def make_training_instant(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    trained: list[tuple[int, ...]] = []

    def train(self, channels, *, seed, folder, watch=None):
        trained.append(tuple(channels))
        accuracies = [
            90.0 - 50.0 * fit_line(channels).residual - EPOCHS + epoch + seed / 1e4 for epoch in range(EPOCHS)
        ]
        for epoch, accuracy in enumerate(accuracies, start=1):
            if watch:
                watch(epoch, accuracy)
        return accuracies

    monkeypatch.setattr(CandidateTrainer, "train", train)
    monkeypatch.setattr(
        CandidateTrainer, "measure_initial_ranks", lambda self, channels, *, seed: {"effective_rank": 0.5}
    )
    return trained


def other(config: SearchConfig, group: str, **fields) -> SearchConfig:
    return replace(config, **{group: replace(getattr(config, group), **fields)})
