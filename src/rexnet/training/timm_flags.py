"""The flags of timm's training script, with which the published ReXNets were trained, as names of ours.

Source: huggingface/pytorch-image-models train.py, clovaai/rexnet README.md@14d1a17.
"""

from collections.abc import Sequence
from typing import get_args

from rexnet.training.config import Amp

ALIASES = {
    "--opt": "--optimizer",
    "-b": "--batch-size",
    "-j": "--workers",
    "--rex-width-mult": "--width",
    "--drop": "--drop-rate",
    "--drop-path": "--drop-path-rate",
    "--aa": "--auto-augment",
    "--reprob": "--random-erasing",
    "--remode": "--erasing-mode",
    "--smoothing": "--label-smoothing",
    "--hflip": "--horizontal-flip",
    "--scale": "--crop-scale",
    "--ratio": "--crop-aspect",
    "--mixup-switch-prob": "--cutmix-share",
    "--img-size": "--image-size",
    "--crop-pct": "--crop-ratio",
    "--sched": "--schedule",
    "--model-ema": "--ema-decay",
    "--model-ema-decay": "--ema-decay",
    "--initial-checkpoint": "--weights",
}
"""Another name for the same option; what it means, and its default, stand with the option."""

_BARE = {"--amp": "auto", "--model-ema": "0.9998"}
"""What a flag means that stands without a value: for the average timm's default."""
_AMP = get_args(Amp)
_MODELS = {"rexnetv1": "rexnet", "rexnetv1_lite": "rexnet_lite"}


def translate(arguments: Sequence[str]) -> list[str]:
    """The words of a training command with this package's names for timm's flags; other words stay as they are."""
    pairs = [word.partition("=") for word in arguments]
    named = {flag for flag, _, _ in pairs}
    words: list[str] = []
    for (flag, equals, value), following in zip(pairs, [*arguments[1:], "--"], strict=True):
        if flag == "--model-ema" and "--model-ema-decay" in named:
            continue
        is_model = flag == "--model" and bool(equals)
        if is_model or words[-1:] == ["--model"]:
            name = value if is_model else flag
            words += ["--model"] if is_model else []
            words.append(_MODELS.get(name, name))
            if name in _MODELS and not named & {"--rex-width-mult", "--width"}:
                words += ["--width", "1.0"]  # the original's default
            continue
        words.append(ALIASES.get(flag, flag) + equals + value)
        if flag in _BARE and not equals and (following.startswith("-") or (flag == "--amp" and following not in _AMP)):
            words.append(_BARE[flag])
    return words
