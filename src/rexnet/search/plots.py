"""Optuna's own plots of a search, in one HTML page that needs no network."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from rexnet.search.storage import known_experiments, require_optuna

if TYPE_CHECKING:
    import optuna

_FEWEST_FOR_IMPORTANCE = 10


def optuna_page(study: "optuna.Study") -> str:
    """ValueError with the pip line where Plotly is missing."""
    optuna = require_optuna()
    try:
        import plotly.io
    except ImportError as error:
        raise ValueError("the plots of rexnet search report need Plotly; pip install 'rexnet[search]'") from error
    show = optuna.visualization
    state = optuna.trial.TrialState
    finished = study.get_trials(deepcopy=False, states=(state.COMPLETE,))
    several = len(study.directions) > 1
    kinds: list[Callable[[Any], Any]] = [show.plot_timeline]
    if several and len(study.directions) <= 3:
        kinds.insert(0, show.plot_pareto_front)
    if not several:
        kinds = [show.plot_optimization_history, show.plot_edf, *kinds, show.plot_slice, show.plot_parallel_coordinate]
        if len({tuple(trial.values) for trial in finished}) >= _FEWEST_FOR_IMPORTANCE:
            kinds.append(show.plot_param_importances)
        if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
            kinds.append(show.plot_intermediate_values)
    with known_experiments():
        figures = [kind(study) for kind in kinds]
    parts = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0) for index, figure in enumerate(figures)
    ]
    title = escape(f"Search {study.study_name}")
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title></head><body>\n' + "\n".join(
        [*parts, "</body></html>\n"]
    )
