"""`rexnet study advise` and `rexnet study rewrite`: from a network's name to the report."""

import json
from pathlib import Path

from rexnet.files import write_whole
from rexnet.models.config import config_text
from rexnet.study.advice_config import AdviceConfig, RewriteConfig
from rexnet.study.layers import load_network
from rexnet.study.principles.advice import Advice, advise
from rexnet.study.principles.rewriting import Rewriting, rewrite


def advise_on(config: AdviceConfig) -> Advice:
    """Load the network and advise on it."""
    model, preprocess = load_network(config.model, image_size=config.image_size)
    return advise(model, image_size_px=preprocess.image_size_px, limits=config.limits)


def rewrite_known(config: RewriteConfig) -> Rewriting:
    """Rewrite the network and write report.json and config.json into the folder of --output, if given."""
    config.check()
    model, preprocess = load_network(config.model, image_size=config.image_size)
    _, report = rewrite(model, image_size_px=preprocess.image_size_px)
    if config.output is not None:
        folder = Path(config.output)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model": config.model, **report.to_dict()}
        write_whole(folder / "report.json", json.dumps(values, indent=2) + "\n")
        if report.config is not None:
            write_whole(folder / "config.json", config_text(report.config))
    return report
