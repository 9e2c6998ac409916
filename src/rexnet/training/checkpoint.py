"""Checkpoint files: written atomically, verified when read, and sufficient to rebuild the network."""

import hashlib
import io
import json
import logging
import os
import shlex
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rexnet._version import __version__
from rexnet.data.preprocess import Preprocess
from rexnet.data.splits import RandomSplit
from rexnet.errors import DamagedFileError, WeightsError
from rexnet.files import write_whole
from rexnet.models.config import RexNetConfig
from rexnet.models.rexnet import RexNet
from rexnet.models.weights import CHECKPOINT_FORMAT, read_checkpoint_file
from rexnet.text import quantity
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

DETECTION = "detection"
"""Value of "task" in a detector's checkpoint; a classifier's has no such key."""


class TrainedRexNet(RexNet):
    """A RexNet from a checkpoint, with its class names and preprocessing."""

    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    preprocess: Preprocess
    """Evaluation transform of the training run."""
    split: RandomSplit | None
    """Random validation split of data without splits; None for other data and in older files."""


def pack(
    model: RexNet,
    metrics: dict[str, Any],
    *,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    split: RandomSplit | None = None,
) -> dict[str, Any]:
    """Return the content of a checkpoint: everything needed to use `model` elsewhere, as CPU tensors and plain
    values."""
    return {
        "format": CHECKPOINT_FORMAT,
        "model": model.config.to_dict(),
        "state_dict": portable(model.state_dict()),
        "classes": list(classes),
        "preprocess": preprocess.to_dict(),
        "split": split and split.to_dict(),
        "metrics": metrics,
        "versions": {"rexnet": __version__, "torch": str(torch.__version__)},
    }


def portable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU in the default memory format, whatever the device and format in training."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def hash_weights(state: dict[str, Tensor], known: bytes = b"") -> str:
    """Return the SHA-256 of `known` and the names and bytes of the weights, the same for any device and memory
    format."""
    digest = hashlib.sha256(known)
    for name, tensor in portable(state).items():
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(path: str | PathLike[str], content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a `.pt` file or, for a `.safetensors` path, the weights with everything but the training state as metadata.
    An older file stays until the new one is complete, and is then renamed to `keep`. Raise WeightsError if the disk is
    full or not writable.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import save as to_safetensors

        facts = {
            key: json.dumps(value) for key, value in content.items() if key not in ("format", "state_dict", "training")
        }
        data = to_safetensors(content["state_dict"], metadata={"format": content["format"], **facts})
    else:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getbuffer()
    try:
        write_whole(path, data, keep=keep)
    except OSError as error:
        raise WeightsError(f"checkpoint {str(path)!r} could not be written ({error.strerror or error})") from error


def read(path: str | PathLike[str], *, foreign: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint of this project, with checksums verified by `read_checkpoint_file`. No code in
    the file is run. Raise WeightsError for a damaged file and, unless `foreign`, for another program's weights file.
    """
    try:
        content = read_checkpoint_file(path)
    except DamagedFileError as error:
        run = RunFolder(Path(path).parent)
        others = [other for other in (run.last, run.previous) if other.name != Path(path).name and other.exists()]
        if not (others and run.holds("config.json")):
            raise
        command = shlex.join(["rexnet", *_train_command(run), "--resume", str(run.path)])
        advice = f"`{command}` continues from {others[0].name} beside it"
        raise DamagedFileError(error.finding, advice) from error
    if not foreign and content.get("format") != CHECKPOINT_FORMAT:
        raise WeightsError(
            f"{os.fspath(path)!r} is not a checkpoint of this project ({CHECKPOINT_FORMAT}); for official and timm "
            "files use rexnet.create_model(name, weights=...)"
        )
    return content


def _train_command(run: RunFolder) -> list[str]:
    """Return the command that started a run, without its arguments."""
    with suppress(ValueError):
        if "detector" in run.read("config.json").get("network", ()):
            return ["detect", "train"]
    return ["train"]


def load(path: str | PathLike[str], device: str | torch.device = "cpu") -> TrainedRexNet:
    """Return the network in a checkpoint of this project (`.pt` or `.safetensors`), rebuilt from the file alone, in
    eval mode.

    `path` may also be a folder of `rexnet card`, or "hf://OWNER/NAME" for such a folder on the Hugging Face hub. Raise
    WeightsError for a file that cannot be used.
    """
    return unpack(read(path), source=os.fspath(path)).to(device)


def unpack(content: dict[str, Any], *, source: str) -> TrainedRexNet:
    """Rebuild the model from a result of `pack`; see `load`."""
    if content.get("task") is not None:
        raise WeightsError(f"checkpoint {source!r} holds a detector; use `rexnet detect` for it")
    try:
        # On the meta device the network takes no memory, whatever size the file claims.
        with torch.device("meta"):
            model = TrainedRexNet(RexNetConfig.from_dict(content["model"]))
        model.load_state_dict({key: _anew(value) for key, value in content["state_dict"].items()}, assign=True)
        model.classes, model.preprocess = tuple(content["classes"]), Preprocess.from_dict(content["preprocess"])
        split = content.get("split")
        model.split = None if split is None else RandomSplit.from_dict(split)
        if len(model.classes) != model.num_classes or not all(isinstance(name, str) for name in model.classes):
            raise ValueError(f"{quantity(len(model.classes), 'class name')} for {quantity(model.num_classes, 'class')}")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"checkpoint {source!r} is inconsistent ({type(error).__name__}: {reason})") from error
    model.requires_grad_(True)
    return model.eval()


def _anew(value: Tensor) -> Tensor:
    """Return a copy with the strides and alignment of new tensors. A `.pt` file keeps the strides of 1x1 weights in
    channels-last order, and a `.safetensors` file aligns tensors to only 8 bytes; both affect how a convolution
    rounds."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value)
