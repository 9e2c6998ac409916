"""config.json of a model folder: for readers that know nothing of this package, and for timm."""

from dataclasses import replace
from typing import Any

from rexnet.card.trained_file import TrainedFile
from rexnet.data.transforms import Preprocess
from rexnet.models.rexnet import RexNetConfig
from rexnet.models.variants import list_models, model_config
from rexnet.timm_models import PREFIX

_OURS = ("format", "task", "model", "detector", "preprocess", "category_ids", "versions")


def folder_config(trained: TrainedFile) -> dict[str, Any]:
    """Plain values. Under "rexnet" is what the weights file holds too, and is read from there; the rest has timm's
    keys, with "architecture" where timm can make the network (see `timm_name`)."""
    content = trained.content
    ours = {key: content[key] for key in _OURS if content.get(key) is not None}
    shared = {"library_name": "rexnet", "num_classes": len(trained.classes), "label_names": trained.classes}
    if trained.is_detector:
        return {**shared, "rexnet": ours}
    config = RexNetConfig.from_dict(content["model"])
    name = timm_name(config)
    architecture = {"architecture": name, "model_args": {"stem_stride": config.stem_stride}} if name else {}
    return {**architecture, **shared, "pretrained_cfg": _pretrained_config(content, config), "rexnet": ours}


def timm_name(config: RexNetConfig) -> str | None:
    """What `timm.create_model` calls the network after `rexnet.register_with_timm`; None for one that has no name
    there. timm's own rexnet_100 has other names for its layers and cannot read the file."""
    if config.name not in list_models():
        return None
    named = model_config(config.name, stem_stride=config.stem_stride, num_classes=config.num_classes)
    # Drop-out is off in evaluation.
    asked = {"drop_rate": named.drop_rate, "drop_path_rate": named.drop_path_rate}
    return f"{PREFIX}{config.name}" if replace(config, **asked) == named else None


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
