"""`rexnet search export`: a candidate, or a member of the family of its line, as a file for every other command."""

from collections.abc import Sequence
from dataclasses import replace

from rexnet.errors import OptionError
from rexnet.files import check_output_file, write_whole
from rexnet.models.config import RexNetConfig, config_text
from rexnet.search.config import BEST, EngineOptions, ExportConfig, SearchConfig
from rexnet.search.results import Candidate, best_first, candidates_of
from rexnet.search.shape import fit_line
from rexnet.search.space import Space, scaled_config
from rexnet.search.storage import existing_study, settings_of


def export(config: ExportConfig) -> RexNetConfig:
    """Write the file and return the network. ValueError where the search has no such candidate."""
    check_output_file(config.output)
    engine = EngineOptions(output=config.search, storage=config.storage, study=config.study)
    study = existing_study(engine)
    settings = settings_of(study)
    chosen = _choose(config.candidate, candidates_of(study), settings)
    space = replace(
        settings.space,
        stem_stride=config.stem_stride or settings.space.stem_stride,
        strided_blocks=config.strided_blocks or settings.space.strided_blocks,
    )
    network = _network(chosen.channels, space, config.width)
    write_whole(config.output, config_text(network))
    return network


def _network(channels: Sequence[int], space: Space, width: float | None) -> RexNetConfig:
    num_classes = RexNetConfig.__dataclass_fields__["num_classes"].default
    if width is None:
        return space.config(channels, num_classes=num_classes)
    return scaled_config(fit_line(channels), space, width=width, num_classes=num_classes)


def _choose(wanted: str, found: list[Candidate], settings: SearchConfig) -> Candidate:
    ranked = best_first(found, settings.engine.objectives[0])
    if not ranked:
        raise ValueError("the search has no finished candidate yet")
    if wanted == BEST:
        return ranked[0]
    for row in found:
        if wanted in (str(row.number), row.name):
            return row
    raise OptionError(f"--candidate is {wanted!r}; allowed: best, a number up to {found[-1].number}, or its channels")
