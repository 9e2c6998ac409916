"""`rexnet search run`: candidates are chosen, trained and written down by any number of processes, until there are
enough."""

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rexnet.files import check_output_folder
from rexnet.search.candidates import CandidateTrainer, SearchData
from rexnet.search.config import SearchConfig
from rexnet.search.objective import Objective
from rexnet.search.results import Candidate, Teller, candidates_of
from rexnet.search.samplers import make_pruner, make_sampler
from rexnet.search.shape import shape_variables, stage_wise, straight
from rexnet.search.storage import (
    create_study,
    known_experiments,
    load_study,
    note_data,
    open_storage,
    put_in_line_again,
    put_killed_in_line,
    require_optuna,
    saved_settings,
    settings_of,
)
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
        *("data", "bad_image"),  # what the data is stands in the storage, and is compared
        *("output", "storage", "study", "sampler", "candidates", "processes", "threads", "device"),
    }
)
_TRIALS_PER_CANDIDATE = 20
"""After so many trials for each candidate asked, the space is taken to hold no more."""
_SEEDS_APART = 1000
_POLL_SECONDS = 2.0
_STOP_SECONDS = 60.0


def search(config: SearchConfig) -> list[Candidate]:
    """Begins the search or goes on with it, until there are `config.engine.candidates`; returns all there are.

    ValueError for settings that differ from those the search began with, and for data or a storage that cannot be used.
    """
    require_optuna()
    engine = config.engine
    folder = Path(engine.output)
    check_output_folder(folder, allowed="a folder, new or of an earlier search")
    config.space.widest(straight(config.space.blocks, 2.0), config.space.min_share)  # refuses limits that nothing fits
    if saved := saved_settings(engine):
        _refuse_changes(saved, config)
    data = SearchData.load(
        config.data, config.images, seed=engine.seed, workers=engine.processes if engine.processes > 1 else 0
    )
    logger.info("%s", data.sets.description)
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(engine)
    if create_study(config, storage):
        _enqueue_comparisons(config, load_study(engine, storage))
    study = load_study(engine, storage)
    _refuse_changes(settings_of(study), config)  # another process may have begun it meanwhile
    note_data(study, data.sets.facts())
    if engine.processes == 1:
        work(config, data)
    else:
        _share_work(config, data, study)
    _tell_unfinished(study)
    return candidates_of(study)


def _refuse_changes(saved: SearchConfig, config: SearchConfig) -> None:
    if changes := changed_options(saved, config, may_change=MAY_CHANGE):
        raise ValueError(
            f"the search {config.engine.study!r} has other settings: {', '.join(changes)}; it goes on as it began, a "
            "new --output or --study starts another"
        )


def _enqueue_comparisons(config: SearchConfig, study: "optuna.Study") -> None:
    """A straight line and the stage-wise convention, each with several seeds."""
    space = config.space
    for number in range(config.engine.comparisons):
        for kind, shape in (("line", straight(space.blocks, 2.0)), ("stages", stage_wise(space.strides, 2.0))):
            variables = shape_variables(shape)
            if space.min_share < 1.0:
                variables["share"] = 1.0
            study.enqueue_trial(variables, user_attrs={"comparison": kind, "seed": (number + 1) * _SEEDS_APART})


def work(config: SearchConfig, data: SearchData, *, follow_parent: bool = False) -> None:
    """One process's part: trials until there are enough candidates."""
    engine = config.engine
    torch.set_num_threads(engine.threads)
    with joined(engine.device, follow_parent=follow_parent) as world, known_experiments():
        if world.device.type == "cpu":
            keep_freed_memory()
        storage = open_storage(engine)
        study = load_study(engine, storage, sampler=make_sampler(engine), pruner=make_pruner(engine))
        objective = Objective(CandidateTrainer(config=config, data=data, world=world), study)
        teller = Teller(study, engine.objectives)

        def after_trial(study: "optuna.Study", _trial: Any) -> None:
            objective.clean_up()
            teller.tell()
            if world.stop.requested:  # too late for the training that has just ended
                raise world.stop.stopped()
            if _enough(config, study):
                study.stop()

        put_killed_in_line(study)  # those that complete the search are no reason for `optimize` to begin
        if _enough(config, study):
            return
        try:
            study.optimize(objective, callbacks=[after_trial])
        except BaseException:
            if objective.current is not None:
                put_in_line_again(study, objective.current)
            raise


def _share_work(config: SearchConfig, data: SearchData, study: "optuna.Study") -> None:
    """`work` in several processes. One that fails leaves its part to the others, and its error is raised in the end."""
    context = torch.multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    count = config.engine.processes
    processes = [context.Process(target=_work_aside, args=(config, data, errors)) for _ in range(count)]
    teller = Teller(study, config.engine.objectives)
    with joined("cpu"):
        try:
            for process in processes:
                process.start()
            while any(process.is_alive() for process in processes):
                time.sleep(_POLL_SECONDS)
                teller.tell()
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


def _work_aside(config: SearchConfig, data: SearchData, errors: Any) -> None:
    try:
        work(config, data, follow_parent=True)
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except (ValueError, OSError) as error:
        errors.put(error)


def _enough(config: SearchConfig, study: "optuna.Study") -> bool:
    """Whether all that was asked is measured, and nothing that was begun or ordered waits."""
    found = candidates_of(study)
    wanted = config.engine.candidates
    trials = [candidate.channels for candidate in found if candidate.comparison is None]
    drawn = set(trials)
    if len(trials) >= wanted * _TRIALS_PER_CANDIDATE:
        logger.warning("only %d different candidates in %d trials: the space holds few more", len(drawn), len(trials))
        return True
    in_line = study.get_trials(deepcopy=False, states=(require_optuna().trial.TrialState.WAITING,))
    return len(drawn) >= wanted and not in_line


def _tell_unfinished(study: "optuna.Study") -> None:
    if running := study.get_trials(deepcopy=False, states=(require_optuna().trial.TrialState.RUNNING,)):
        logger.info(
            "%d %s under way in other processes; should one of these have been killed, the same command takes up its "
            "candidate when it has been silent for a while",
            len(running),
            plural(len(running), "candidate"),
        )
