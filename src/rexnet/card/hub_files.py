"""Files of a model folder for other libraries: config.json with timm's keys, and the YAML front matter of the card."""

import re
import shlex
from dataclasses import replace
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rexnet.card.trained_file import TrainedFile
from rexnet.data.datasets import hub_name
from rexnet.data.preprocess import Preprocess
from rexnet.models.config import RexNetConfig
from rexnet.models.hub import PREFIX, REPOSITORY
from rexnet.models.published import PUBLISHED
from rexnet.models.variants import list_models, model_config
from rexnet.text import printable
from rexnet.timm_models import PREFIX as TIMM_PREFIX

_OURS = ("format", "task", "model", "detector", "preprocess", "category_ids", "score_threshold", "versions")


def folder_config(trained: TrainedFile) -> dict[str, Any]:
    """Return config.json as plain values. "rexnet" repeats the config in the weights file, from which rexnet itself
    reads it; the other keys are timm's, with "architecture" if timm can build the network (see `timm_name`)."""
    content, config = trained.content, trained.config
    ours = {key: content[key] for key in _OURS if content.get(key) is not None}
    shared = {"library_name": "rexnet", "num_classes": len(trained.classes), "label_names": trained.classes}
    if config is None:
        return {**shared, "rexnet": ours}
    name = timm_name(config)
    architecture = {"architecture": name, "model_args": {"stem_stride": config.stem_stride}} if name else {}
    return {**architecture, **shared, "pretrained_cfg": _pretrained_config(content, config), "rexnet": ours}


def timm_name(config: RexNetConfig) -> str | None:
    """Return the network's name in timm after `rexnet.register_with_timm`; None if it has none. timm's own rexnet_100
    names its layers differently and cannot read the file.
    """
    if config.name not in list_models():
        return None
    known = model_config(config.name, stem_stride=config.stem_stride, num_classes=config.num_classes)
    # Dropout is off in evaluation.
    compared = replace(config, drop_rate=known.drop_rate, drop_path_rate=known.drop_path_rate)
    return f"{TIMM_PREFIX}{config.name}" if compared == known else None


def _pretrained_config(content: dict[str, Any], config: RexNetConfig) -> dict[str, Any]:
    preprocess = Preprocess.from_dict(content["preprocess"])
    size = preprocess.image_size_px
    return {
        "input_size": [config.in_channels, size, size],
        "num_classes": config.num_classes,
        "crop_pct": preprocess.crop_ratio,
        "crop_mode": "center",
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "first_conv": "features.0",
        "classifier": "output.4" if config.head_hidden_channels else "output.1",
    }


def front_matter(trained: TrainedFile, *, name: str, licence: str | None) -> str:
    """Return the YAML block, delimiters included. It lists results only if the run records the data they were measured
    on, and datasets and base models only if the hub has them under that name."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "object-detection" if trained.is_detector else "image-classification"
    measured = trained.measurements() if trained.run else []
    dataset, dataset_type = _dataset(trained)
    card = ModelCardData(
        library_name="rexnet",
        pipeline_tag=task,
        tags=["rexnet", "pytorch", task, *_more_tags(trained)],
        license=licence,
        base_model=_base_model(trained),
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(str(one.metric.hub_name) for one in measured)) or None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=dataset_type,
                dataset_name=public_name(trained.data).rstrip("/") or "unknown",
                dataset_split="validation",
                metric_type=str(one.metric.hub_name),
                metric_name=one.metric.full_name,
                metric_value=round(one.percent / 100, 6),
            )
            for one in measured
        ]
        or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def _dataset(trained: TrainedFile) -> tuple[str | None, str]:
    """Return the dataset's name on the hub, if it has one, and its type in the model index."""
    name = hub_name(trained.data)
    if name and re.fullmatch(rf"{REPOSITORY}|[\w-]+", name):
        return name, name
    if trained.data == "digits":
        return None, "digits"
    # The hub's own reader of class folders; it has none for boxes.
    return None, "unknown" if trained.is_detector else "imagefolder"


def _base_model(trained: TrainedFile) -> str | None:
    """Return the name of the initial weights on the hub, if they came from there."""
    weights = trained.starting_weights
    if weights in PUBLISHED and PUBLISHED[weights].host == "hugging-face":
        return f"timm/{weights}"
    if weights and weights.startswith(PREFIX):
        return weights.removeprefix(PREFIX).partition("@")[0]
    return None


def _more_tags(trained: TrainedFile) -> list[str]:
    if not trained.is_detector:
        return [trained.network]
    kind = trained.detector["kind"]
    return [kind.replace("_", "-"), *(["instance-segmentation"] if kind == "mask_rcnn" else [])]


# An underscore inside a word is plain text.
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|~$&]|\b_|_\b)")


def escape(text: object) -> str:
    """Escape text as one line of Markdown, so that no name becomes a heading, a link or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(str(text)))


def public_name(name: str) -> str:
    """Return the last part of a path outside the current folder, and an address without user, password and query."""
    if name.startswith(PREFIX):
        return name
    if "://" in name:
        parts = urlsplit(name)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if name.startswith(("/", "~", "..")) or PurePath(name).is_absolute():
        return PurePath(name).name
    return name


def public_command(command: str) -> str:
    """Return the command line with public names for its arguments, on one line."""
    program, *arguments = shlex.split(command)
    program = PurePath(program).name
    shown = []
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        shown.append(option + equals + public_name(value))
    return printable(shlex.join(["rexnet" if program == "__main__.py" else program, *shown]))
