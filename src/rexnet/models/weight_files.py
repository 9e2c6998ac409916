"""Weights files of any origin, read without running their content. torch is imported on first use."""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rexnet.errors import DamagedFileError, WeightsError
from rexnet.models.hub import weights_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKPOINT_FORMAT", "SUFFIXES", "extract_state_dict", "read_checkpoint_file"]

CHECKPOINT_FORMAT = "rexnet-checkpoint/1"
"""Value of "format" in this project's checkpoints; a `.safetensors` file has everything but tensors in its metadata."""
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

# The limit of the safetensors format.
_MAX_HEADER_BYTES = 100_000_000
# Averaged weights first: these are the ones their authors evaluated.
_STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_checkpoint_file(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a `.pth`, `.pt`, `.bin` or `.safetensors` file onto the CPU; the content decides its kind. For a model
    folder or "hf://OWNER/NAME", which is downloaded, read its weights file.

    Nothing in the file is run: only tensors and plain values are read. A `.safetensors` file of this project yields the
    same dictionary as its `.pt`; any other yields its tensors. Raise WeightsError naming the file.
    """
    path = weights_path(path)
    try:
        with _open_regular_file(path) as file:
            head = file.read(512)
            file.seek(0)
            if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES:
                content = _read_safetensors(path, file.read())
            elif head.startswith(b"PK\x03\x04"):
                _check_archive(path, file)
                content = _read_torch(path, file)
            elif head.startswith(b"\x80"):
                content = _read_torch(path, file)
            else:
                raise WeightsError(_describe_foreign_content(path, head))
    except OSError as error:
        raise WeightsError(f"weights file {str(path)!r} cannot be read ({error.strerror or error})") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise WeightsError(
            f"weights file {str(path)!r} contains a {kind}; pass one that contains a dictionary of tensors"
        )
    return content


def extract_state_dict(content: Mapping[str, Any], *, source: str = "the given dictionary") -> "dict[str, Tensor]":
    """Return the state dict in a result of `read_checkpoint_file`, without the prefixes that wrappers add to keys.

    Accept a bare state dict, this project's checkpoints, and dictionaries with "state_dict_ema", "model_ema",
    "state_dict", "model" or "model_state_dict", averaged weights first. Raise WeightsError naming `source`.
    """
    format_name = content.get("format", CHECKPOINT_FORMAT)
    if format_name != CHECKPOINT_FORMAT:
        raise WeightsError(
            f"{source} has the format {format_name!r}; this version of rexnet reads {CHECKPOINT_FORMAT!r}"
        )
    inside = next((content[key] for key in _STATE_DICT_KEYS if _holds_tensors(content.get(key))), content)
    # torch.optim.swa_utils.AveragedModel counts its updates beside the wrapped module.
    tensors = {key: value for key, value in inside.items() if key != "n_averaged"}
    if not _holds_tensors(tensors):
        keys = ", ".join(map(repr, list(tensors)[:4])) or "none"
        raise WeightsError(f"{source} contains no state dict; its first keys are {keys}")
    while prefix := next((p for p in _WRAPPER_PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _holds_tensors(value: Any) -> bool:
    from torch import Tensor

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _open_regular_file(path: Path) -> BinaryIO:
    allowed = f"pass the path of a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix in SUFFIXES)
        hint = f"name a file in it, such as {inside[0]}" if inside else allowed
        raise WeightsError(f"weights file {str(path)!r} is a folder; {hint}")
    if not path.exists():
        raise WeightsError(f"weights file {str(path)!r} does not exist; {allowed}")
    if not path.is_file():
        raise WeightsError(f"weights file {str(path)!r} is not a regular file; {allowed}")
    if path.stat().st_size == 0:
        raise DamagedFileError(f"weights file {str(path)!r} is empty")
    return path.open("rb")


def _describe_foreign_content(path: Path, head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return f"weights file {str(path)!r} is a web page; open the address in a browser and save the file it offers"
    if start.startswith(b"version https://git-lfs"):
        return f"weights file {str(path)!r} is a Git LFS pointer; download the actual file with `git lfs pull`"
    return f"weights file {str(path)!r} is neither a PyTorch nor a safetensors file; pass one that is"


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
    return DamagedFileError(f"weights file {str(path)!r} is damaged or cut short ({reason})")


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Raise WeightsError for archives PyTorch would not write, and for wrong checksums, which it does not check."""
    # A damaged archive can fail in any of its fields, with any exception.
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except Exception as error:
        raise _damaged(path, error) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise WeightsError(f"weights file {str(path)!r} is a TorchScript program; pass a state dict instead")
    # Members larger than the archive are an attempt to fill the memory: PyTorch never compresses.
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"weights file {str(path)!r} is compressed, which PyTorch never does; pass another file")
    try:
        # All zero: checksums were disabled (torch.serialization.set_crc32_options).
        damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    except Exception as error:
        raise _damaged(path, error) from error
    if damaged:
        raise _damaged(path, ValueError(f"wrong checksum of its member {damaged}"))


def _read_torch(path: Path, file: BinaryIO) -> Any:
    import torch

    file.seek(0)
    try:
        # timm's training checkpoints hold their arguments in a Namespace, a class without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    # A damaged file can fail anywhere in the unpickler, with any exception.
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            broken_pickle = isinstance(error, pickle.UnpicklingError)
            raise _damaged(path, ValueError("broken pickle") if broken_pickle else error) from error
        raise WeightsError(
            f"weights file {str(path)!r} is rejected because it needs {wanted[1]!r}, which could run code when "
            "opened; use a .safetensors file, or save only the state dict"
        ) from error


def _read_safetensors(path: Path, data: bytes) -> dict[str, Any]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise WeightsError(
            f"weights file {str(path)!r} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
        if metadata.get("format") != CHECKPOINT_FORMAT:
            return tensors
        values = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    except Exception as error:
        raise _damaged(path, error) from error
    return {**values, "format": CHECKPOINT_FORMAT, "state_dict": tensors}
