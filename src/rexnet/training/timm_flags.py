"""The flags of timm's training script, with which the published ReXNets were trained, as names of ours.

Source: huggingface/pytorch-image-models train.py, clovaai/rexnet README.md@14d1a17.
"""

from collections.abc import Sequence

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
_MODELS = {"rexnetv1": "rexnet", "rexnetv1_lite": "rexnet_lite"}


def translate(arguments: Sequence[str]) -> list[str]:
    """The words of a training command with this package's names for timm's flags; other words stay as they are."""
    words: list[str] = []
    pairs = [word.partition("=") for word in arguments]
    named = {flag for flag, _, _ in pairs}
    for (flag, equals, value), following in zip(pairs, [*arguments[1:], "--"], strict=True):
        if words[-1:] == ["--model"] and flag in _MODELS:
            flag = _MODELS[flag]
            # The original's default width.
            words += [flag] if named & {"--rex-width-mult", "--width"} else [flag, "--width", "1.0"]
            continue
        words.append(ALIASES.get(flag, flag) + equals + value)
        if flag in _BARE and not equals and following.startswith("-"):
            words.append(_BARE[flag])
    return words
