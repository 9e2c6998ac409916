"""`rexnet search run`: processes that choose, train and record candidates until there are enough."""

import logging
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rexnet.search.candidates import CandidateTrainer, SearchData
from rexnet.search.config import Objective, SearchConfig, format_value
from rexnet.search.results import Candidate, candidates_of
from rexnet.search.shape import fit_line, shape_variables, stage_wise, straight
from rexnet.search.storage import (
    create_study,
    ignore_experimental,
    load_study,
    note_data,
    open_storage,
    requeue,
    requeue_killed,
    require_optuna,
    saved_settings,
    settings_of,
)
from rexnet.search.trials import TrialObjective, make_pruner, make_sampler
from rexnet.text import plural
from rexnet.training.distributed import joined
from rexnet.training.interruption import Stopped
from rexnet.training.resume import changed_options
from rexnet.training.session import keep_freed_memory

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

MAY_CHANGE = frozenset(
    {
        *("data", "bad_image"),  # the storage records facts about the data, which are compared instead
        *("output", "storage", "study", "sampler", "candidates", "processes", "threads", "device"),
    }
)
_TRIALS_PER_CANDIDATE = 20
"""Trials per requested candidate after which the space counts as exhausted."""
_SEEDS_APART = 1000
_POLL_SECONDS = 2.0
_STOP_SECONDS = 60.0


def search(config: SearchConfig) -> list[Candidate]:
    """Start or continue the search until it has `config.engine.candidates` candidates, and return all of them. Raise
    ValueError for settings that differ from those the search started with, and for unusable data or storage.
    """
    require_optuna()
    engine = config.engine
    folder = Path(engine.output)
    config.check()
    config.space.widest(straight(config.space.blocks, 2.0), config.space.min_share)  # raises for impossible limits
    if saved := saved_settings(engine):
        _refuse_changes(saved, config)
    data = SearchData.load(
        config.data, config.images, seed=engine.seed, workers=engine.processes if engine.processes > 1 else 0
    )
    logger.info("%s", data.sets.description)
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(engine)
    if create_study(config, storage):
        enqueue_comparisons(config, load_study(engine, storage))
    study = load_study(engine, storage)
    _refuse_changes(settings_of(study), config)  # another process may have started it meanwhile
    note_data(study, data.sets.facts())
    if engine.processes == 1:
        work(config, data)
    else:
        _share_work(config, data, study)
    _log_unfinished(study)
    return candidates_of(study)


def _refuse_changes(saved: SearchConfig, config: SearchConfig) -> None:
    if changes := changed_options(saved, config, may_change=MAY_CHANGE):
        raise ValueError(
            f"the search {config.engine.study!r} has other settings: {', '.join(changes)}; omit these options to "
            "continue it, or start another with a new --output or --study"
        )


def enqueue_comparisons(config: SearchConfig, study: "optuna.Study") -> None:
    """Queue a straight line and the stage-wise convention, each with several seeds."""
    space = config.space
    for number in range(config.engine.comparisons):
        for kind, shape in (("line", straight(space.blocks, 2.0)), ("stages", stage_wise(space.strides, 2.0))):
            variables = shape_variables(shape)
            if space.min_share < 1.0:
                variables["share"] = 1.0
            study.enqueue_trial(variables, user_attrs={"comparison": kind, "seed": (number + 1) * _SEEDS_APART})


def work(config: SearchConfig, data: SearchData, *, follow_parent: bool = False) -> None:
    """Run trials in this process until there are enough candidates."""
    engine = config.engine
    torch.set_num_threads(engine.threads)
    with joined(engine.device, follow_parent=follow_parent) as world, ignore_experimental():
        if world.device.type == "cpu":
            keep_freed_memory()
        storage = open_storage(engine)
        study = load_study(engine, storage, sampler=make_sampler(engine), pruner=make_pruner(engine))
        objective = TrialObjective(CandidateTrainer(config=config, data=data, world=world), study)
        log = CandidateLog(study, engine.objectives)

        def after_trial(study: "optuna.Study", _trial: Any) -> None:
            objective.clean_up()
            log.update()
            if world.stop.requested:  # a stop request too late for the training that has just ended
                raise world.stop.stopped()
            if _enough(config, study):
                study.stop()

        requeue_killed(study)  # before `_enough`, which counts queued trials
        if _enough(config, study):
            return
        try:
            study.optimize(objective, callbacks=[after_trial])
        except BaseException:
            if objective.current is not None:
                requeue(study, objective.current)
            raise


def _share_work(config: SearchConfig, data: SearchData, study: "optuna.Study") -> None:
    """Run `work` in several processes. The others take over from one that fails; its error is raised at the end."""
    context = torch.multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    count = config.engine.processes
    processes = [context.Process(target=_work_in_child, args=(config, data, errors)) for _ in range(count)]
    log = CandidateLog(study, config.engine.objectives)
    with joined("cpu"):
        try:
            for process in processes:
                process.start()
            while any(process.is_alive() for process in processes):
                time.sleep(_POLL_SECONDS)
                log.update()
        except KeyboardInterrupt:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(_STOP_SECONDS)
            raise
    if not errors.empty():
        raise errors.get()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise OSError(f"{len(codes)} of {count} processes of the search ended unexpectedly (exit code {codes[0]})")


def _work_in_child(config: SearchConfig, data: SearchData, errors: Any) -> None:
    try:
        work(config, data, follow_parent=True)
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except (ValueError, OSError) as error:
        errors.put(error)


def _enough(config: SearchConfig, study: "optuna.Study") -> bool:
    """Return whether all requested candidates are measured and nothing is queued."""
    found = candidates_of(study)
    wanted = config.engine.candidates
    trials = [candidate.channels for candidate in found if candidate.comparison is None]
    sampled = set(trials)
    if len(trials) >= wanted * _TRIALS_PER_CANDIDATE:
        logger.warning("only %d different candidates in %d trials: the space holds few more", len(sampled), len(trials))
        return True
    queued = study.get_trials(deepcopy=False, states=(require_optuna().trial.TrialState.WAITING,))
    return len(sampled) >= wanted and not queued


def _log_unfinished(study: "optuna.Study") -> None:
    if running := study.get_trials(deepcopy=False, states=(require_optuna().trial.TrialState.RUNNING,)):
        logger.info(
            "%d %s still running in other processes; if one of these was killed, the same command continues its "
            "candidate after a while",
            len(running),
            plural(len(running), "candidate"),
        )


class CandidateLog:
    """Callback that logs each candidate once, when it is finished."""

    def __init__(self, study: "optuna.Study", objectives: Sequence[Objective]):
        self._study, self._objectives = study, objectives
        self._logged = {candidate.number for candidate in candidates_of(study)}

    def update(self) -> None:
        for row in candidates_of(self._study):
            if row.number not in self._logged:
                self._logged.add(row.number)
                logger.info("%s", self._describe(row))

    def _describe(self, row: Candidate) -> str:
        reached = zip(self._objectives, row.values, strict=False)
        result = ", ".join(f"{name} {format_value(name, value)}" for name, value in reached) or "stopped early"
        cost = f"{row.parameters / 1e6:.3f} M parameters, {row.macs / 1e6:.1f} M MACs"
        spent = f", {timedelta(seconds=round(row.seconds))}" if row.seconds is not None else ", measured before"
        off = f"off a line by {fit_line(row.channels).residual:.1%}"
        return f"candidate {row.number}: {row.name}  {result}  ({cost}, {off}{spent})"
