"""Where a search is kept: any Optuna storage, which processes on many machines may share."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet.data.facts import DataFacts
from rexnet.errors import OptionError, require
from rexnet.search.config import DIRECTIONS, EngineOptions, SearchConfig
from rexnet.text import printable
from rexnet.training.resume import config_from_dict, config_to_dict

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal:"
_HEARTBEAT_SECONDS, _GRACE_SECONDS = 20, 80
_LOCK_SECONDS = 60
_TRIES, _PAUSE_SECONDS, _WRITING_SECONDS = 3, 0.5, 10.0
_SETTINGS, _DATA = "settings", "data"


def require_optuna() -> Any:
    """The library; ValueError with the pip line where it is missing. Of its own messages only errors are shown."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError("rexnet search needs Optuna; pip install 'rexnet[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@contextmanager
def known_experiments() -> Iterator[None]:
    """Without Optuna's warning that heartbeats are experimental, as they have been since its version 2.9."""
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(engine: EngineOptions) -> "optuna.storages.BaseStorage":
    """ValueError, one sentence, where it cannot be reached.

    A database is told every few seconds that the process of a trial is alive. One that stays silent has died, and its
    trial is put in line again, for whichever process is free next. A journal has no such sign of life: there a killed
    trial is not taken up again, another one takes its place.
    """
    optuna = require_optuna()
    place = engine.storage or _database_url(engine.database)
    if place.startswith(JOURNAL):
        file = Path(place.removeprefix(JOURNAL))
        usable = file.parent.is_dir() and not file.is_dir()
        require(usable, "storage", repr(place), "journal:FILE in a folder that is there")
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    if "://" not in place:
        raise OptionError(
            f"--storage is {place!r}; allowed: a database's URL, such as postgresql://USER@HOST/NAME, or journal:FILE"
        )
    for _ in range(_TRIES - 1):
        # Of two processes that find an empty database together, one meets the tables that the other is making.
        with suppress(Exception):
            return _open_database(place)
        time.sleep(_PAUSE_SECONDS)
    try:
        return _open_database(place)
    except Exception as error:  # each database has its own
        reason = f"{error}".splitlines()[0]
        raise ValueError(f"--storage {_without_password(place)} cannot be opened: {reason}") from error


def _database_url(file: Path) -> str:
    """Return the URL that names exactly this file, whatever characters its path has."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _open_database(url: str) -> "optuna.storages.RDBStorage":
    from sqlalchemy.pool import NullPool

    storages = require_optuna().storages
    # A connection is closed after each use: between two of them a training takes minutes, and servers have few.
    options: dict[str, Any] = {"poolclass": NullPool}
    if url.startswith("sqlite:"):
        options["connect_args"] = {"timeout": _LOCK_SECONDS}
    with known_experiments():
        return storages.RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=_HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(),
        )


def put_in_line_again(study: "optuna.Study", number: int) -> None:
    """Of a trial that was interrupted or broke off, as Optuna does for one whose process died."""
    optuna = require_optuna()
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state == optuna.trial.TrialState.FAIL:
        with known_experiments():
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def put_killed_in_line(study: "optuna.Study") -> None:
    """The trials of processes that have been silent for too long."""
    with known_experiments():
        require_optuna().storages.fail_stale_trials(study)


def create_study(config: SearchConfig, storage: "optuna.storages.BaseStorage") -> bool:
    """Begins the search in the storage with its settings; False where it is there already."""
    optuna = require_optuna()
    names = list(config.engine.objectives)
    directions = [DIRECTIONS[name] for name in config.engine.objectives]
    try:
        study = optuna.create_study(storage=storage, study_name=config.engine.study, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        return False
    with known_experiments():
        study.set_metric_names(names)
    no_password = replace(config, engine=replace(config.engine, storage=None))
    study.set_user_attr(_SETTINGS, config_to_dict(no_password))
    return True


def saved_settings(engine: EngineOptions) -> SearchConfig | None:
    """The settings that the search at this place began with; None where there is none yet."""
    if not engine.may_have_begun:
        return None
    storage = open_storage(engine)
    names = {study.study_name for study in require_optuna().get_all_study_summaries(storage)}
    return settings_of(load_study(engine, storage)) if engine.study in names else None


def settings_of(study: "optuna.Study") -> SearchConfig:
    """ValueError for a study that another program made."""
    began = time.monotonic()
    while _SETTINGS not in study.user_attrs:  # perhaps only not yet
        if time.monotonic() - began > _WRITING_SECONDS:
            raise ValueError(f"the study {study.study_name!r} there is no search of rexnet; name another --study")
        time.sleep(_PAUSE_SECONDS)
    return config_from_dict(SearchConfig, study.user_attrs[_SETTINGS])


def existing_study(engine: EngineOptions) -> "optuna.Study":
    """The search at this place. ValueError where there is none; nothing is created."""
    if not engine.may_have_begun:
        raise ValueError(f"there is no search in {printable(engine.output)!r}; rexnet search run begins one")
    return load_study(engine, open_storage(engine))


def load_study(engine: EngineOptions, storage: "optuna.storages.BaseStorage", **more: Any) -> "optuna.Study":
    """`more`: sampler and pruner. ValueError where there is none of that name."""
    optuna = require_optuna()
    try:
        return optuna.load_study(study_name=engine.study, storage=storage, **more)
    except KeyError as error:
        raise ValueError(f"there is no search {engine.study!r} in {engine.storage or engine.output}") from error


def note_data(study: "optuna.Study", facts: DataFacts) -> None:
    """Note the facts about the images, or raise ValueError where the search began with others."""
    saved = study.user_attrs.get(_DATA)
    if saved is None:
        study.set_user_attr(_DATA, facts.to_dict())
        return
    if isinstance(saved, str):  # of a version up to 0.1
        saved = {"description": saved, "classes": facts.classes}
    facts.refuse_other(DataFacts.from_dict(saved), subject="the search")


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
