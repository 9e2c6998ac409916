"""The storage of a search: any of Optuna's, for processes on one or many machines."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet.data.facts import DataFacts
from rexnet.errors import MissingPackageError, OptionError, require
from rexnet.search.config import DIRECTIONS, OPTUNA, EngineOptions, SearchConfig
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
    """Import Optuna and silence all its messages except errors. Raise MissingPackageError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError(*OPTUNA) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@contextmanager
def ignore_experimental() -> Iterator[None]:
    """Ignore Optuna's warning that heartbeats are experimental, as they have been since its version 2.9."""
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(engine: EngineOptions) -> "optuna.storages.BaseStorage":
    """Open the storage. Raise ValueError if it cannot be reached.

    The process of a trial sends a heartbeat to a database every few seconds. A trial without heartbeats is queued again
    for the next free process. In a journal, which has no heartbeats, another trial replaces a killed one.
    """
    optuna = require_optuna()
    place = engine.storage or _database_url(engine.database)
    if place.startswith(JOURNAL):
        file = Path(place.removeprefix(JOURNAL))
        usable = file.parent.is_dir() and not file.is_dir()
        require(usable, "storage", repr(place), "journal:FILE in an existing folder")
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    if "://" not in place:
        raise OptionError(
            f"--storage is {place!r}; allowed: a database's URL, such as postgresql://USER@HOST/NAME, or journal:FILE"
        )
    for _ in range(_TRIES - 1):
        # Retry: if two processes find an empty database, one fails on the tables that the other is creating.
        with suppress(Exception):
            return _open_database(place)
        time.sleep(_PAUSE_SECONDS)
    try:
        return _open_database(place)
    except Exception as error:  # catch all: each database has its own errors
        reason = f"{error}".splitlines()[0]
        raise ValueError(f"--storage {hide_password(place)} cannot be opened: {reason}") from error


def _database_url(file: Path) -> str:
    """Return the URL of exactly this file, whatever characters its path contains."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _open_database(url: str) -> "optuna.storages.RDBStorage":
    from sqlalchemy.pool import NullPool

    storages = require_optuna().storages
    # Close each connection after use: the next use is minutes later, and servers allow few connections.
    options: dict[str, Any] = {"poolclass": NullPool}
    if url.startswith("sqlite:"):
        options["connect_args"] = {"timeout": _LOCK_SECONDS}
    with ignore_experimental():
        return storages.RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=_HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(),
        )


def requeue(study: "optuna.Study", number: int) -> None:
    """Queue an interrupted or failed trial again, as Optuna does for one whose process died."""
    optuna = require_optuna()
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state == optuna.trial.TrialState.FAIL:
        with ignore_experimental():
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def requeue_killed(study: "optuna.Study") -> None:
    """Queue again the trials whose processes have sent no heartbeat for too long."""
    with ignore_experimental():
        require_optuna().storages.fail_stale_trials(study)


def create_study(config: SearchConfig, storage: "optuna.storages.BaseStorage") -> bool:
    """Create the search in the storage with its settings. Return False if it already exists."""
    optuna = require_optuna()
    names = list(config.engine.objectives)
    directions = [DIRECTIONS[name] for name in config.engine.objectives]
    try:
        study = optuna.create_study(storage=storage, study_name=config.engine.study, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        return False
    with ignore_experimental():
        study.set_metric_names(names)
    no_password = replace(config, engine=replace(config.engine, storage=None))
    study.set_user_attr(_SETTINGS, config_to_dict(no_password))
    return True


def saved_settings(engine: EngineOptions) -> SearchConfig | None:
    """Return the settings that the search at this location started with; None if there is none yet."""
    if not engine.may_have_begun:
        return None
    storage = open_storage(engine)
    names = {study.study_name for study in require_optuna().get_all_study_summaries(storage)}
    return settings_of(load_study(engine, storage)) if engine.study in names else None


def settings_of(study: "optuna.Study") -> SearchConfig:
    """Return the settings of a search. Raise ValueError for a study of another program."""
    began = time.monotonic()
    while _SETTINGS not in study.user_attrs:  # wait, since another process may be about to write them
        if time.monotonic() - began > _WRITING_SECONDS:
            raise ValueError(f"the study {study.study_name!r} is not a search of rexnet; name another --study")
        time.sleep(_PAUSE_SECONDS)
    return config_from_dict(SearchConfig, study.user_attrs[_SETTINGS])


def existing_study(engine: EngineOptions) -> "optuna.Study":
    """Return the search at this location. Raise ValueError if there is none; nothing is created."""
    if not engine.may_have_begun:
        raise ValueError(f"there is no search in {printable(engine.output)!r}; rexnet search run starts one")
    return load_study(engine, open_storage(engine))


def load_study(engine: EngineOptions, storage: "optuna.storages.BaseStorage", **more: Any) -> "optuna.Study":
    """Return the search of this name; `more`: its sampler and pruner. Raise ValueError if there is none."""
    optuna = require_optuna()
    try:
        return optuna.load_study(study_name=engine.study, storage=storage, **more)
    except KeyError as error:
        place = hide_password(engine.storage) if engine.storage else printable(engine.output)
        raise ValueError(f"there is no search {engine.study!r} in {place!r}") from error


def note_data(study: "optuna.Study", facts: DataFacts) -> None:
    """Record the facts about the images, or raise ValueError if the search started with others."""
    saved = study.user_attrs.get(_DATA)
    if saved is None:
        study.set_user_attr(_DATA, facts.to_dict())
        return
    if isinstance(saved, str):  # written by versions up to 0.1
        saved = {"description": saved, "classes": facts.classes}
    facts.refuse_other(DataFacts.from_dict(saved), subject="the search")


def describe_data(study: "optuna.Study") -> str | None:
    """Return the sizes and splits of the images in one line; None before a process has read them."""
    saved = study.user_attrs.get(_DATA)
    return DataFacts.from_dict(saved).description if isinstance(saved, dict) else saved


def hide_password(url: str) -> str:
    """Return the URL of a storage with *** in place of its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
