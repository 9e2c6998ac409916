"""Options that are gone, with what replaces them; they answer for two releases."""

from collections.abc import Sequence

from rexnet.errors import OptionError

_REMOVED = {
    (
        "quantize",
        "--fine-tune-epochs",
    ): "int8 networks are no longer fine-tuned; the file is written if it loses at most --max-drop",
    ("export", "--format=executorch"): "ExecuTorch files are no longer written: write .pt2, which its own tools read",
    ("export", "--format=coreml"): "Core ML files are no longer written: write .pt2, which its own tools read",
    ("export", "--format=tensorrt"): "TensorRT files are no longer written: write .onnx, which its own tools read",
}
"""By command and option, or option and value."""


def check_removed(command: str, arguments: Sequence[str]) -> None:
    """OptionError, one sentence with the replacement, for an option or value that is gone."""
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, given = argument.partition("=")
        name = name.replace("_", "-")
        for option in (name, f"{name}={given or value}"):
            if option.startswith("--") and (reason := _REMOVED.get((command, option))):
                raise OptionError(f"{option.replace('=', ' ')} was removed: {reason}")
