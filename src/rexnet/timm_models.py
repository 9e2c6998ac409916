"""timm's networks by name, and ours registered for its `create_model`, as native_rexnet_100; timm's own rexnet_100
stays."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rexnet.errors import ModelError, WeightsError
from rexnet.models.factory import create_model
from rexnet.models.hub import ask_hub, ask_url
from rexnet.models.layouts import layout_of
from rexnet.models.published import published_for
from rexnet.models.rexnet import RexNet
from rexnet.models.timm_keys import has_timm_keys, timm_to_native
from rexnet.models.variants import list_models
from rexnet.models.weights import check_network, read_weights

logger = logging.getLogger(__name__)

PREFIX = "native_"
"""Prefix of every name; these networks use the official state-dict keys."""
# timm looks up an entry point's pretrained configs in the entry point's `__module__`.
_MODULE = "rexnet_native"


def register_with_timm() -> list[str]:
    """Make every network of `rexnet.list_models()` available to `timm.create_model`, and return the names there.

    The names are "native_" + ours: native_rexnet_100, native_rexnet_lite_130. They take timm's usual arguments, and
    weights by timm's tags ("native_rexnet_100.nav_in1k", pretrained=True), from files with timm's keys or the official
    ones. A second call has no effect.
    """
    from timm.models import generate_default_cfgs, register_model

    if _MODULE not in sys.modules:
        module = ModuleType(_MODULE, "Entry points of rexnet.register_with_timm.")
        vars(module)["default_cfgs"] = generate_default_cfgs(_pretrained_configs())
        sys.modules[_MODULE] = module
        for name in list_models():
            register_model(_entry_point(name))
    return [PREFIX + name for name in list_models()]


def _pretrained_configs() -> dict[str, Any]:
    """Return timm's config for each of its weights files under our names, and a config without a file for other
    networks."""
    from timm.models import get_pretrained_cfg

    configs: dict[str, Any] = {}
    for name in list_models():
        layers = {"first_conv": "features.0", "classifier": "output.4" if "lite" in name else "output.1"}
        tags = [row.name for row in published_for(name) if row.host == "hugging-face"]
        found = {PREFIX + tag: replace(config, **layers) for tag in tags if (config := get_pretrained_cfg(tag))}
        shape = {"num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7)}
        configs |= found or {PREFIX + name: layers | shape | {"crop_pct": 0.875, "interpolation": "bicubic"}}
    return configs


def _make_network(name: str, **options: Any) -> RexNet:
    """Return the network `name` from the arguments that timm passes to a model class."""
    model = create_model(name, **options)
    model.register_load_state_dict_pre_hook(_accept_timm_keys)
    return model


def _accept_timm_keys(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *_: Any
) -> None:
    """Make `load_state_dict` accept timm's keys, since timm reads `checkpoint_path` without converting them."""
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if has_timm_keys(own):
        for key in own:
            del state_dict[prefix + key]
        state_dict.update({prefix + key: value for key, value in timm_to_native(own).items()})


def _check_weights(state_dict: dict[str, Any], model: RexNet) -> dict[str, Tensor]:
    """Return the content of a pretrained file under the official keys. Raise WeightsError if it is another network's.

    Image channels and classes are left to timm, which adapts them.
    """
    weights = read_weights(state_dict)
    check_network(weights, layout_of(model.state_dict()))
    return dict(weights.state_dict)


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        by_hand = "give the path of a file downloaded by hand, as pretrained_cfg_overlay={'file': PATH}"
        if pretrained:
            overlay = options.get("pretrained_cfg_overlay") or {}
            config = _pretrained_config(PREFIX + name, options.get("pretrained_cfg"), overlay)
            options["pretrained_cfg_overlay"] = {**overlay, **_copy_without_network(config, PREFIX + name, by_hand)}
        try:
            return build_model_with_cfg(
                partial(_make_network, name),
                PREFIX + name,
                pretrained,
                pretrained_filter_fn=_check_weights,
                feature_cfg={"feature_cls": "getter", "flatten_sequential": True},
                **options,
            )
        except OSError as error:
            raise _unreadable(PREFIX + name, error, by_hand) from error

    create.__name__ = create.__qualname__ = PREFIX + name
    create.__module__ = _MODULE
    create.__doc__ = f"{name} of the package rexnet."
    return create


def create_timm(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Create timm's network `name`, with or without a tag, by timm's own `create_model`. Raise ModelError for a name
    that timm does not have, and WeightsError if its weights cannot be loaded, after at most five seconds if their host
    does not answer.
    """
    import timm

    check_timm_name(name)
    if not pretrained:
        return timm.create_model(name, **options)
    by_hand = f"download it by hand, and name the file with --model timm/{name}"
    try:
        config = _pretrained_config(name, None, {})
        overlay = _copy_without_network(config, f"timm/{name}", by_hand)
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (OSError, RuntimeError) as error:
        raise _unreadable(f"timm/{name}", error, by_hand) from error


def check_timm_name(name: str) -> None:
    """Raise ModelError unless timm has a network of this name."""
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {close[0]}?" if close else "timm.list_models() lists its networks"
        raise ModelError(f"timm has no network {name!r}; {hint}")


def _unreadable(name: str, error: Exception, by_hand: str) -> WeightsError:
    reason = " ".join(str(error).split())[:200]
    return WeightsError(f"the weights of {name} could not be read or downloaded ({reason}); {by_hand}")


def _pretrained_config(name: str, given: Any, overlay: dict[str, Any]) -> Any:
    from timm.models import get_pretrained_cfg, resolve_pretrained_cfg

    known = given or overlay or get_pretrained_cfg(name)
    return resolve_pretrained_cfg(name, given, overlay) if known else None


def _copy_without_network(config: Any, name: str, by_hand: str) -> dict[str, Any]:
    """Return the overlay that makes timm read its last downloaded copy if the host does not answer, else an empty one.
    timm itself would retry for half a minute per file. Raise WeightsError if there is no copy either."""
    if config is None or config.file or config.state_dict:
        return {}
    try:
        if config.hf_hub_id:
            return _hub_copy(config.hf_hub_id, config.hf_hub_filename or "model.safetensors", name)
        cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(config.url or ""))
        if config.url and not os.path.isfile(cached):
            ask_url(config.url)
        return {}
    except Exception as error:
        reason = type(error).__name__
        raise WeightsError(f"the weights of {name} could not be downloaded ({reason}); {by_hand}") from error


def _hub_copy(address: str, file: str, name: str) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = address.partition("@")
    try:
        ask_hub(repository, file, revision=revision or None)
    except Exception as error:
        response = getattr(error, "response", None)
        if response is not None and response.status_code < 500:
            return {}  # the hub answers; timm knows which other files may exist
        cached = try_to_load_from_cache(repository, file, revision=revision or None)
        if not isinstance(cached, str):
            raise
        logger.warning("%s could not be requested (%s): using the last downloaded copy", name, type(error).__name__)
        return {"file": cached}
    return {}
