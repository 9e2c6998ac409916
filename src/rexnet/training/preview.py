"""Defaults for `rexnet train DATA --help`, found without network access, torch, or reading weights."""

import os
from dataclasses import replace

from rexnet.data.datasets import is_remote
from rexnet.models.hub import is_offline
from rexnet.models.published import PUBLISHED
from rexnet.options import values_of
from rexnet.training.budget import Budget, follow_budget
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.initial_weights import AUTO, NONE, choose_weights
from rexnet.training.recipes import RECIPES, digits, finetune, scratch, starting_point, within_budget


def preview(
    asked: TrainConfig, *, data_given: bool, epochs: int | None = None, batch_size: int | None = None
) -> tuple[TrainConfig, dict[str, str]]:
    """Return the settings that --help can show without reading weights or a remote dataset and, by option, the source
    of each default that it cannot know."""
    if asked.run.resume:
        return scratch(), dict.fromkeys((*_varying(), "weights"), "that of the run")
    recipe, weights, remote = asked.recipe, asked.network.weights, data_given and is_remote(asked.data)
    decided = {"weights": f"default: {AUTO}"} if weights == AUTO else {}
    if recipe == "auto" and weights in (None, AUTO) and (remote or not data_given):
        source = "the size of the remote images" if remote else "DATA"
        decided |= dict.fromkeys(_varying(), f"that of the recipe for {source}")
        return replace(scratch(), recipe="auto"), decided
    if weights == AUTO:
        asked, decided["weights"] = _choose_from_cache(asked)
        weights = asked.network.weights
    if weights is not None and weights not in PUBLISHED:
        names = ("model", "stem_stride", "image_size", "crop_ratio", "interpolation")
        decided |= dict.fromkeys(names, "that of the weights")
        recipe, weights = "finetune" if recipe == "auto" else recipe, None
    if {".", os.sep} & set(asked.network.model):
        decided["stem_stride"] = f"as in {asked.network.model}"
    if recipe == "finetune" and weights is None:
        return within_budget(finetune(), asked, epochs=epochs, batch_size=batch_size), decided
    network = replace(asked.network, weights=weights, model=NetworkConfig.model, width=NetworkConfig.width)
    asked = replace(asked, recipe=recipe, network=network)
    return starting_point(asked, epochs=epochs, batch_size=batch_size), decided


def _choose_from_cache(asked: TrainConfig) -> tuple[TrainConfig, str]:
    """Return `asked` with the weights that auto would find in the cache, and the text of the default in --help, without
    network access."""
    cached = replace(asked, network=replace(asked.network, weights_cache_only=True))
    if is_remote(asked.data):
        return replace(asked, network=replace(asked.network, weights=None)), f"default: {AUTO}"
    found = choose_weights(cached)
    chosen = found.initial_weights
    text = f"default: {AUTO}, here {chosen['name']}"
    if chosen["name"] != NONE:
        return found, f"{text} from the cache"
    if "wanted" in chosen and not (asked.network.weights_cache_only or is_offline()):
        return (
            found,
            f"{text} in the cache; the run tries to download the weights of {PUBLISHED[chosen['wanted']].model}",
        )
    return found, f"{text}: {chosen['reason']}"


def _varying() -> set[str]:
    """Return the options whose defaults depend on the recipe or the budget."""
    short = follow_budget(scratch(), Budget(images=None, epochs=1, batch_size=1))
    parts = [values_of(settings) for settings in (*(recipe() for recipe in RECIPES.values()), digits(), short)]
    return {name for name in parts[0] if len({str(part[name]) for part in parts}) > 1} - {"recipe"}
