"""Initial weights of a run, chosen once by the main process before the network is built."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.dataset import SMALL_IMAGE_PX
from rexnet.errors import NotDownloadedError, WeightsError
from rexnet.files import digest_of
from rexnet.models.hub import PATIENCE_S, cache_only
from rexnet.models.published import (
    PUBLISHED,
    PublishedWeights,
    by_hand,
    cached_file,
    check_digest,
    download_weights,
    find_published,
    place_of,
    published_for,
)
from rexnet.processes import process_count
from rexnet.references import SAVED, resolve
from rexnet.training.config import NetworkConfig, TrainConfig

logger = logging.getLogger(__name__)

AUTO = "auto"
"""Value of --weights for the network's published weights, if they are available."""
NONE = "none"
"""Value for random weights in config.json."""
_RANDOM = ("imagenet", "scratch", "small-image")
"""Recipes for random weights."""


def choose_weights(asked: TrainConfig) -> TrainConfig:
    """Return `asked` with the weights that --weights selects: their name or None in `network.weights`, and their name
    and sha256, or the reason for none, in `initial_weights`. An earlier choice is kept. Raise WeightsError for a
    damaged file, or if the weights are given by name and cannot be loaded.
    """
    if asked.initial_weights:
        return asked
    if reason := _reason_for_none(asked):
        chosen = {"name": NONE, "reason": reason}
    elif process_count() == 1:
        chosen = _find(asked.network)
    else:
        from rexnet.training.distributed import ask_main

        chosen = ask_main(json.dumps(asdict(asked.network)), lambda: _find(asked.network))
    weights = None if chosen["name"] == NONE else chosen["name"]
    return replace(asked, network=replace(asked.network, weights=weights), initial_weights=chosen)


def keep_weights(config: TrainConfig, *, chosen: TrainConfig) -> TrainConfig:
    """Return `config` with the weights in `chosen`, a result of `choose_weights`."""
    network = replace(config.network, weights=chosen.network.weights)
    return replace(config, network=network, initial_weights=chosen.initial_weights)


def read_checked(network: NetworkConfig, sha256: str | None) -> str:
    """Return the argument of `read_weights` for the weights of `network`. Raise WeightsError if their hash is not
    `sha256`, recorded at the start of the run; None: not recorded."""
    with cache_only(network.weights_cache_only):
        reference = resolve(network.weights or "", allowed=SAVED, option="--weights")
        file = reference.file
    if sha256 is not None and (found := digest_of(file)) != sha256:
        raise WeightsError(
            f"--weights {network.weights} has sha256 {found[:8]}..., but the run started from {sha256[:8]}...; put "
            "that file back, or start another run in a new --output"
        )
    return reference.text if reference.kind == "published" else str(file)


def describe_choice(config: TrainConfig, *, resumed: bool) -> str:
    """Return the first log line of a run, which names its weights."""
    chosen = config.initial_weights
    if "sha256" in chosen:
        return f"weights: {chosen['name']} (sha256 {chosen['sha256']})"
    if not chosen:  # a run of an older version, which did not record its choice
        return f"weights: {config.network.weights or NONE}"
    line = f"weights: none, training starts from scratch: {chosen['reason']}"
    if resumed or "wanted" not in chosen:
        return line
    row = PUBLISHED[chosen["wanted"]]
    way = by_hand(row) if place_of(row) else f"download {row.file} from {row.address} by hand and give --weights FILE"
    return f"{line}; published weights would be better, especially with few images: {way}"


def _reason_for_none(asked: TrainConfig) -> str | None:
    """Return why no weights are looked for, the same in every process; None if some are."""
    network = asked.network
    if network.weights != AUTO:
        return "--weights none" if network.weights is None else None
    if asked.recipe in _RANDOM:
        return f"--recipe {asked.recipe} is for random weights"
    name = _name_of(network)
    if not published_for(name):
        return f"there are no published weights of {name}"
    if not find_published(name):
        return f"the weights of {name} can be downloaded only in a browser, see `rexnet models`"
    if network.stem_stride == 1:
        return "published weights are for --stem-stride 2"
    if asked.input.image_size <= SMALL_IMAGE_PX:
        return (
            f"--image-size is {asked.input.image_size}; published weights are used only above {SMALL_IMAGE_PX} pixels"
        )
    if open_dataset(asked.data).small_images:
        return f"images of at most {SMALL_IMAGE_PX} pixels"
    return None


def _name_of(network: NetworkConfig) -> str:
    """Return the `create_model` name of a network that may have published weights, without loading torch."""
    percent = round(100 * (network.width or 0))
    return f"{network.model}_{percent:03d}" if network.width == percent / 100 else network.model


def _find(network: NetworkConfig) -> dict[str, str]:
    """Return the weights' name and sha256, downloaded if needed, or the reason why auto found none."""
    with cache_only(network.weights_cache_only):
        if network.weights != AUTO:
            reference = resolve(network.weights or "", allowed=SAVED, option="--weights")
            return _describe(reference.text, reference.file)
        rows = find_published(_name_of(network))
        for row in rows:
            if path := cached_file(row):
                return _describe(row.name, path)
        return _download(rows)


def _download(rows: list[PublishedWeights]) -> dict[str, str]:
    reason = ""
    for row in rows:
        try:
            # One time limit covers all hosts together.
            return _describe(row.name, download_weights(row.name, patience_s=PATIENCE_S / len(rows)))
        except NotDownloadedError as error:
            reason = error.finding
    return {"name": NONE, "reason": reason, "wanted": rows[-1].name}


def _describe(name: str, path: Path) -> dict[str, str]:
    digest = digest_of(path)
    if name in PUBLISHED:
        check_digest(PUBLISHED[name], path, digest)
    return {"name": name, "sha256": digest}
