"""Resumption of a run: its folder, checks of its settings and data, and its newest checkpoint."""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from rexnet.data.facts import DataFacts
from rexnet.errors import DamagedFileError, OptionError, WeightsError
from rexnet.options import values_of
from rexnet.references import holds_settings
from rexnet.text import printable, quantity
from rexnet.training.config import LoopConfig
from rexnet.training.run_folder import DATA, METRICS, RunFolder

if TYPE_CHECKING:
    from rexnet.training.distributed import World

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=LoopConfig)
Config = TypeVar("Config")

MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("data", "bad_image"),  # data.json describes the data and is compared instead
        *("teacher", "teacher_weights", "unlabelled"),  # their hashes are compared instead
        *("device", "workers", "threads", "output", "overwrite", "resume", "save_minutes", "tensorboard"),
        *("weights_cache_only", "initial_weights"),  # the hash is compared before the weights are read
    }
)
"""Options that may change when a run is resumed, for example on another machine or in another folder."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return plain values for JSON; `config_from_dict` reads them back."""
    return asdict(config)


def config_from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """Read values of `config_to_dict`, also of an older version: an option added since then takes its default, which is
    how older runs were trained. Raise ValueError for an option that this version does not have."""
    names = {option.name for option in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(values.keys() - names):
        raise ValueError(f"the saved settings have {', '.join(unknown)}, which this version does not have")
    types = get_type_hints(kind)
    return kind(
        **{
            name: config_from_dict(types[name], value)
            if is_dataclass(types[name])
            else (tuple(value) if isinstance(value, list) else value)
            for name, value in values.items()
        }
    )


def changed_options(saved: Config, given: Config, *, may_change: frozenset[str] = MAY_CHANGE_ON_RESUME) -> list[str]:
    """List the options in which the runs `given` and `saved` differ, as "--lr 0.1 (was 0.5)"."""
    old, new = values_of(saved), values_of(given)
    return [
        f"--{name.replace('_', '-')} {new[name]} (was {value})"
        for name, value in old.items()
        if new[name] != value and name not in may_change
    ]


def folder_to_resume(config: LoopConfig) -> Path:
    """Return the folder that --resume selects. Raise ValueError if --resume names a folder without a run."""
    if not isinstance(config.run.resume, str):
        return Path(config.run.output or "")
    typed = Path(config.run.resume)
    path = typed.parent if typed.is_file() else typed
    if not RunFolder(path).holds("config.json"):
        kind = "in a run folder" if typed.is_file() else "a run folder"
        raise ValueError(f"--resume {str(typed)!r} is not {kind}: there is no config.json")
    if not holds_settings(path):
        reason = "its config.json has no run settings"
        raise ValueError(f"--resume {str(typed)!r} is not a run folder: {reason}; use --weights to start from a model")
    return path


def resumes(config: LoopConfig) -> bool:
    """Return True if there is a checkpoint from which the run will continue."""
    return bool(config.run.resume) and RunFolder(folder_to_resume(config)).has_checkpoint


def settings_to_resume(asked: Settings) -> Settings | None:
    """Return the settings of the run that --resume selects, without --resume itself; None if there is no run yet. A
    relative data path is resolved independently of the current folder.
    """
    if not asked.run.resume or not (run := RunFolder(folder_to_resume(asked))).holds("config.json"):
        return None
    saved = _saved_settings(run, type(asked))
    facts = run.data_facts()
    data = saved.data if facts is None else facts.locate(saved.data)
    return replace(saved, data=data, run=replace(saved.run, resume=False, overwrite=False, output=None))


def require_data(config: LoopConfig) -> None:
    """Raise ValueError if the data of a run to resume is no longer where the run found it, and no other is given."""
    facts = RunFolder(folder_to_resume(config)).data_facts() if config.run.resume else None
    place = facts and facts.path
    if place and not os.path.exists(place) and os.path.abspath(values_of(config)["data"]) == os.path.abspath(place):
        raise ValueError(
            f"the data that the run started with, {printable(place)}, does not exist; if it has moved, give its new "
            "place as DATA beside --resume"
        )


def _saved_settings(run: RunFolder, kind: type[LoopConfig]) -> Any:
    """Return the settings of the run in the folder. Raise ValueError for a run of the other training command."""
    values = run.read("config.json")
    network, of_detector = values.get("network"), "detector" in signature(get_type_hints(kind)["network"]).parameters
    if isinstance(network, dict) and ("detector" in network) != of_detector:
        trained, command = ("classifier", "rexnet train") if of_detector else ("detector", "rexnet detect train")
        raise ValueError(f"the run in {str(run.path)!r} trains a {trained}; `{command}` continues it")
    return config_from_dict(kind, values)


def accept_settings(run: RunFolder, config: LoopConfig) -> None:
    """Save the schedule of a run that `extend` has extended. Raise ValueError if `config` differs from the run in any
    other option, or if the run's checkpoints are lost."""
    saved = _saved_settings(run, type(config))
    _refuse_lost_checkpoints(run)
    new, old = config.schedule, saved.schedule
    extended = new.epochs > old.epochs and new.restart_epochs[:-1] == old.restart_epochs != new.restart_epochs
    may_change = MAY_CHANGE_ON_RESUME | ({"epochs", "restart_epochs"} if extended else set())
    if changes := changed_options(saved, config, may_change=may_change):
        raise ValueError(
            f"the run in {str(run.path)!r} has other settings: {', '.join(changes)}; --resume continues it with its "
            "original settings (once it is finished, also with more --epochs), and a new --output starts another run"
        )
    if extended:
        run.write("config.json", config_to_dict(replace(saved, schedule=new)))


def extend(config: Settings) -> Settings:
    """Return the settings with which --resume extends a finished run to more --epochs: the schedule restarts where it
    ended. A run keeps the number of epochs chosen by --max-minutes. Any other `config` is returned unchanged."""
    if not config.run.resume or not (run := RunFolder(folder_to_resume(config))).holds("config.json"):
        return config
    saved = _saved_settings(run, type(config))
    new, old = config.schedule, saved.schedule
    if old.measured and not new.measured:
        return cast(Any, replace)(config, schedule=replace(new, epochs=old.epochs, measured=old.measured))
    if not run.has_checkpoint:
        return config
    if new.epochs < old.epochs:
        raise OptionError(
            f"--epochs is {new.epochs}, but the run in {str(run.path)!r} has {old.epochs}; allowed: the same number, "
            "or more "
            "once it is finished"
        )
    if new.epochs == old.epochs or new.restart_epochs != old.restart_epochs:
        return config
    done = len(run.rows())
    if done < old.epochs and not run.holds("summary.json"):
        return config
    return cast(Any, replace)(config, schedule=replace(new, restart_epochs=(*old.restart_epochs, done)))


def log_finished(run: RunFolder, epochs: int) -> None:
    done, path = quantity(epochs, "epoch"), shlex.quote(str(run.path))
    logger.info(
        "%s is finished after %s, so there is nothing to train; --resume %s --epochs MORE extends it",
        run.path,
        done,
        path,
    )


def _refuse_lost_checkpoints(run: RunFolder) -> None:
    """Raise ValueError if epochs were trained but no checkpoint is left: starting over would replace the remaining
    files. (A kill at the end of the first epoch may leave one row without a checkpoint; nothing is lost then.)"""
    if run.has_checkpoint:
        return
    count = len(run.rows())
    if count > 1 or any(run.path.glob("*.pt.damaged")):
        kept = "; best.pt still exists and can be used" if run.best.exists() else ""
        raise ValueError(
            f"{str(run.path)!r} has {quantity(count, 'epoch')} in {METRICS} but no complete checkpoint"
            f"{kept}; --overwrite starts over, and --output starts a run elsewhere"
        )


def note_data(run: RunFolder, facts: DataFacts, *, main: bool) -> None:
    """Write data.json in the main process at the start of a run. Raise ValueError if the data of a resumed run has
    changed."""
    if (saved := run.data_facts()) is not None:
        facts.refuse_other(saved, subject=str(run.path))
    elif main:
        run.write(DATA, facts.to_dict())


def newest_checkpoint(run: RunFolder, world: "World") -> dict[str, Any] | None:
    """Return the content of last.pt, or of previous.pt if last.pt is damaged, on every process; None before the first
    checkpoint. Call it before any process writes a new checkpoint."""
    return world.from_main(newest(run.last, run.previous) if world.is_main else None)


def newest(*paths: Path) -> dict[str, Any] | None:
    """Return the content of the first intact file of `paths`, newest first; None if none exists.

    A damaged file is renamed to NAME.damaged with a warning. Raise WeightsError if all existing files are damaged.
    """
    from rexnet.training import checkpoint

    existing = [path for path in paths if path.exists()]
    errors = []
    for path in existing:
        try:
            content = checkpoint.read(path)
        except WeightsError as error:
            if isinstance(error.__cause__, OSError):  # a disk error does not mean that the file is damaged
                raise
            errors.append(error)
            logger.warning("%s", error.finding if isinstance(error, DamagedFileError) else error)
            # Otherwise the damaged file would later replace the intact one.
            _set_aside(path)
            continue
        if errors:
            logger.warning("continuing from the older %s", path)
        return content
    if errors:
        raise WeightsError(f"no checkpoint in {existing[0].parent} can be read; --overwrite starts over") from errors[0]
    return None


def warn_of_lost_best(run: RunFolder) -> None:
    """Warn if best.pt is missing or damaged, and rename a damaged file: a resumed run does not read best.pt, and
    replaces it only after a better epoch."""
    from rexnet.training import checkpoint

    try:
        checkpoint.read(run.best)
    except WeightsError:
        state = f"damaged and was renamed to {_set_aside(run.best).name}" if run.best.exists() else "missing"
        text = "%s is %s; %s holds the weights of the last epoch and can be used instead"
        logger.warning(text, run.best, state, run.last)


def _set_aside(path: Path) -> Path:
    return path.replace(path.with_name(f"{path.name}.damaged"))


@contextmanager
def resumable(run: RunFolder, world: "World", *, command: str) -> Iterator[None]:
    """Log the command that continues the run if it is stopped within this context."""
    try:
        yield
    except KeyboardInterrupt:
        if world.is_main:
            logger.warning("`%s --resume %s` continues where it stopped", command, shlex.quote(str(run.path)))
        raise
