"""Options that are gone, which answer for two releases, and the names that other packages give to ours."""

from collections.abc import Collection, Sequence

from rexnet.errors import OptionError

_REMOVED = {
    (
        "quantize",
        "--fine-tune-epochs",
    ): "int8 networks are no longer fine-tuned; the file is written if it loses at most --max-drop",
    ("train", "--latency-budget-ms"): "rexnet fit-budget --latency-ms MS finds the network, --model trains it",
    ("study rank", "--backend"): "--processes N works on this machine, --address tcp://HOST:8786 on a Dask cluster",
    ("export", "--format=executorch"): "ExecuTorch files are no longer written: write .pt2, which its own tools read",
    ("export", "--format=coreml"): "Core ML files are no longer written: write .pt2, which its own tools read",
    ("export", "--format=tensorrt"): "TensorRT files are no longer written: write .onnx, which its own tools read",
}
"""By command and option, or option and value."""


def check_removed(command: str, arguments: Sequence[str]) -> None:
    """OptionError, one sentence with the replacement, for an option or value that is gone."""
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, given = argument.partition("=")
        name = name.replace("_", "-")
        for option in (name, f"{name}={given or value}"):
            if option.startswith("--") and (reason := _REMOVED.get((command, option))):
                raise OptionError(f"{option.replace('=', ' ')} was removed: {reason}")


_OTHER_NAMES = {
    "--imgsz": "--image-size",
    "--size": "--image-size",
    "--resolution": "--image-size",
    "--batch": "--batch-size",
    "--lr0": "--lr",
    "--learning-rate": "--lr",
    "--num-epochs": "--epochs",
    "--num-workers": "--workers",
    "--pretrained": "--weights",
    "--checkpoint": "--weights",
    "--project": "--output",
    "--out": "--output",
    "--output-dir": "--output",
    "--name": "--output",
    "--arch": "--model",
    "--backbone": "--model",
    "--wd": "--weight-decay",
    "--width-mult": "--width",
    "--data": "the folder itself, as the first argument",
    "--data-dir": "the folder itself, as the first argument",
    "--source": "the images themselves, after the model",
    "--num-classes": "nothing: the classes are those of the data",
}


def other_names(arguments: Sequence[str], known: Collection[str]) -> list[str]:
    """Return a hint for every option that has another name here, as "--imgsz: here it is --image-size".

    `known` are the options of the command, which need none.
    """
    given = dict.fromkeys(argument.partition("=")[0].replace("_", "-") for argument in arguments)
    return [f"{name}: here it is {_OTHER_NAMES[name]}" for name in given if name in _OTHER_NAMES.keys() - known]
