"""Published checkpoints: their addresses and facts, and their download to the usual caches."""

import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rexnet.errors import DamagedFileError, MissingPackageError, NotDownloadedError, WeightsError
from rexnet.files import digest_of
from rexnet.models.hub import PATIENCE_S, ask_hub, ask_url, is_offline
from rexnet.text import reason_of

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Host = Literal["hugging-face", "timm-release", "google-drive"]
_RELEASE_PAGE = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rexnet"


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One published file. Metrics are its publisher's, not measured here; None means unknown."""

    name: str
    model: str
    """Name for `rexnet.create_model`."""
    host: Host
    address: str
    """Page or file to open in a browser."""
    file: str
    sha256_prefix: str | None = None
    num_classes: int = 1000
    top1_percent: float | None = None
    """Accuracy on the ImageNet-1k validation set, with the transform below."""
    top5_percent: float | None = None
    image_size_px: int = 224
    crop_ratio: float | None = 0.875
    """Ratio of the evaluated square's side to the resized image's short side."""
    interpolation: str | None = "bicubic"
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    """Mean of red, green and blue, for values in 0..1."""
    std: tuple[float, float, float] | None = IMAGENET_STD
    licence: str | None = "MIT"
    """SPDX name."""
    note: str = ""

    @property
    def preprocess(self) -> dict[str, Any] | None:
        """Return the evaluation transform as plain values for JSON, or None if part of it is unknown."""
        if self.crop_ratio is None or self.interpolation is None or self.mean is None or self.std is None:
            return None
        return {
            "image_size_px": self.image_size_px,
            "crop_ratio": self.crop_ratio,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def _hub(tag: str, top1: float | None = None, top5: float | None = None, **facts: Any) -> PublishedWeights:
    return PublishedWeights(
        name=tag,
        model=tag.partition(".")[0],
        host="hugging-face",
        address=f"https://huggingface.co/timm/{tag}",
        file="model.safetensors",
        top1_percent=top1,
        top5_percent=top5,
        **facts,
    )


def _hub_rounded(tag: str, top1: float | None = None, top5: float | None = None, **facts: Any) -> PublishedWeights:
    return _hub(tag, top1, top5, crop_ratio=0.95, licence="Apache-2.0", **facts)


def _release(model: str, sha256_prefix: str, top1: float, top5: float) -> PublishedWeights:
    file = f"{model.replace('rexnet', 'rexnetv1')}-{sha256_prefix}.pth"
    return PublishedWeights(
        name=f"{model}.timm_release",
        model=model,
        host="timm-release",
        address=f"{_RELEASE_PAGE}/{file}",
        file=file,
        sha256_prefix=sha256_prefix,
        top1_percent=top1,
        top5_percent=top5,
        note="timm's conversion of the official file",
    )


def _drive(model: str, file_id: str, top1: float, top5: float, **facts: Any) -> PublishedWeights:
    family, _, percent = model.rpartition("_")
    stem = {"rexnet": "rexnetv1"}.get(family, family)
    return PublishedWeights(
        name=f"{model}.official",
        model=model,
        host="google-drive",
        address=f"https://drive.google.com/file/d/{file_id}/view",
        file=f"{stem}_{int(percent) / 100:.1f}.pth",
        top1_percent=top1,
        top5_percent=top5,
        **{"note": "licence of the repository that links it; transform of timm's copy", **facts},
    )


def _drive_lite(model: str, file_id: str, top1: float, top5: float) -> PublishedWeights:
    unknown = {"crop_ratio": None, "interpolation": None, "mean": None, "std": None}
    note = "licence of the repository that links it; only the size of the transform is published"
    return _drive(model, file_id, top1, top5, note=note, **unknown)


_ROWS = (
    _hub("rexnet_100.nav_in1k", 77.862, 93.890),
    _hub("rexnet_130.nav_in1k", 79.492, 94.680),
    _hub("rexnet_150.nav_in1k", 80.322, 95.164),
    _hub("rexnet_200.nav_in1k", 81.636, 95.672),
    _hub("rexnet_300.nav_in1k", 82.780, 96.230),
    _hub_rounded("rexnetr_200.sw_in12k_ft_in1k", 82.602, 96.396, note="83.160 / 96.646 at 288 px, crop 1.0"),
    _hub_rounded("rexnetr_300.sw_in12k_ft_in1k", 84.036, 96.994, note="84.582 / 97.278 at 288 px, crop 1.0"),
    _hub_rounded("rexnetr_200.sw_in12k", num_classes=11821, note="ImageNet-12k, for fine-tuning"),
    _hub_rounded("rexnetr_300.sw_in12k", num_classes=11821, note="ImageNet-12k, for fine-tuning"),
    _release("rexnet_100", "1b4dddf4", 77.86, 93.88),
    _release("rexnet_130", "590d768e", 79.49, 94.67),
    _release("rexnet_150", "bd1a6aa8", 80.31, 95.16),
    _release("rexnet_200", "8c0b7f2d", 81.63, 95.67),
    _drive("rexnet_100", "1xeIJ3wb83uOowU008ykYj6wDX2dsncA9", 77.9, 93.9),
    _drive("rexnet_130", "1x2ziK9Oyv66Y9NsxJxXsdjzpQF2uSJj0", 79.5, 94.7),
    _drive("rexnet_150", "1TOBGsbDhTHWBgqcRnyKIR0tHsJTOPUIG", 80.3, 95.2),
    _drive("rexnet_200", "1R1aOTKIe1Mvck86NanqcjWnlR8DY-Z4C", 81.6, 95.7),
    _drive("rexnet_300", "1iXAsr8gs3pRz0QyHKomdj5SGVzPWbIs2", 82.8, 96.2),
    _drive_lite("rexnet_lite_100", "1d9G4pLwZwkoDR2TRPCQlxiWiuC7R-Oqf", 76.2, 92.8),
    _drive_lite("rexnet_lite_130", "1NsbsdI8qAHG6HdMxmySXcrl9NdEx3s0L", 77.8, 93.8),
    _drive_lite("rexnet_lite_150", "12QzIh9A-U0PBGaLNOIr4gX2MoZEBnRjk", 78.6, 94.2),
    _drive_lite("rexnet_lite_200", "1pGdG9HWnqSAu1FajmaMJMK5JyOJaiFyW", 80.2, 95.0),
)
PUBLISHED = {row.name: row for row in _ROWS}


def published_for(model: str) -> list[PublishedWeights]:
    """Return the rows for a `create_model` name."""
    return [row for row in _ROWS if row.model == model]


def find_published(model: str) -> list[PublishedWeights]:
    """Return the rows for a `create_model` name with files that programs can download, the first row of each host."""
    first: dict[Host, PublishedWeights] = {}
    for row in published_for(model):
        first.setdefault(row.host, row)
    return [row for row in first.values() if row.host != "google-drive"]


def download_weights(name: str, *, patience_s: float = PATIENCE_S) -> Path:
    """Return the path of a published file in its host's usual cache; a cached file needs no network.

    Google Drive does not allow downloads by programs: a WeightsError then gives the address and the path to save the
    file to. Raise NotDownloadedError, also a WeightsError, without a network connection, and if the host does not
    answer within `patience_s`.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"there are no published weights {name!r}; allowed: {', '.join(PUBLISHED)}")
    row = PUBLISHED[name]
    if row.host == "google-drive":
        raise WeightsError(
            f"{name} is on Google Drive, which only a browser can download from; save {row.file} from {row.address} "
            "and pass the file's path"
        )
    path = cached_file(row) or _download(row, patience_s)
    if row.host == "timm-release":
        check_digest(row, path, digest_of(path))
    return path


def cached_file(row: PublishedWeights) -> Path | None:
    """Return the copy of a published file in its host's usual cache; None if there is none."""
    if (path := place_of(row)) is not None:
        return path if path.exists() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise MissingPackageError(row.name, "huggingface_hub", f"huggingface_hub, or {by_hand(row)}") from error
    cached = try_to_load_from_cache(f"timm/{row.name}", row.file)
    return Path(cached) if isinstance(cached, str) else None


def place_of(row: PublishedWeights) -> Path | None:
    """Return the path at which a manually downloaded file is found; None if there is no such path."""
    if row.host != "timm-release":
        return None
    # The same as torch.hub.get_dir(), but without torch, which --help does not load.
    torch = sys.modules.get("torch")
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = torch.hub.get_dir() if torch else Path(os.environ.get("TORCH_HOME", f"{caches}/torch"), "hub")
    return Path(folder, "checkpoints", row.file).expanduser()


def by_hand(row: PublishedWeights) -> str:
    """Return the advice to download a file in a browser."""
    if (place := place_of(row)) is not None:
        return f"download {row.address} by hand and save it as {str(place)!r}"
    return f"download {row.file} from {row.address} by hand and give the path of the file instead of the name"


def check_digest(row: PublishedWeights, path: Path, digest: str) -> None:
    """Raise DamagedFileError unless the file has its published hash; the hub's cache names files by their hash."""
    named = re.fullmatch(r"[0-9a-f]{64}", os.path.basename(os.path.realpath(path)))
    expected = row.sha256_prefix or (named[0] if named else "")
    if not digest.startswith(expected):
        finding = f"{str(path)!r} has sha256 {digest[:8]}..., but {row.name} has {expected[:8]}..."
        raise DamagedFileError(finding, "delete the file to download it again")


def _download(row: PublishedWeights, patience_s: float) -> Path:
    """Return the path of the downloaded file. Raise NotDownloadedError without a network connection, or if downloads
    are not allowed."""
    if is_offline():
        reason = "it is not in the cache, and HF_HUB_OFFLINE or --weights-cache-only prevents a download"
        raise NotDownloadedError(f"{row.name} could not be downloaded ({reason})", by_hand(row))
    try:
        return _from_hugging_face(row, patience_s) if row.host == "hugging-face" else _from_release(row, patience_s)
    # The hub's client passes on errors of its HTTP library, which differ by version.
    except Exception as error:
        # urllib's reason is the system's error; messages of the hub's client are pages long.
        cause = getattr(error, "reason", error)
        reason = " ".join(reason_of(cause).split()) if row.host == "timm-release" else ""
        finding = f"{row.name} could not be downloaded ({reason or type(error).__name__})"
        raise NotDownloadedError(finding, by_hand(row)) from error


def _from_hugging_face(row: PublishedWeights, patience_s: float) -> Path:
    from huggingface_hub import hf_hub_download

    repository = f"timm/{row.name}"
    # Fail at once without a network connection; the download itself retries for half a minute.
    _log_download(row, ask_hub(repository, row.file, patience_s=patience_s))
    return Path(hf_hub_download(repository, row.file))


def _from_release(row: PublishedWeights, patience_s: float) -> Path:
    import torch

    path = place_of(row)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.hub has no timeout.
    _log_download(row, ask_url(row.address, patience_s=patience_s))
    torch.hub.download_url_to_file(row.address, str(path), row.sha256_prefix)
    return path


def _log_download(row: PublishedWeights, size_bytes: int | None) -> None:
    size = f"{size_bytes / 1e6:.1f} MB" if size_bytes else "of unknown size"
    logger.info("downloading %s, %s, from %s", row.name, size, row.address)


def markdown_table() -> str:
    """Render the table of docs/weights.md."""
    header = (
        "| name | model | file | sha256 | classes | top-1 / top-5 % | image, crop, interpolation | licence | note |"
    )
    lines = [header, "|" + " --- |" * header.count(" |")]
    for row in _ROWS:
        accuracy = f"{row.top1_percent} / {row.top5_percent}" if row.top1_percent is not None else "unknown"
        transform = f"{row.image_size_px} px, {row.crop_ratio or 'unknown'}, {row.interpolation or 'unknown'}"
        cells = (
            f"`{row.name}`",
            row.model,
            f"[{row.file}]({row.address})",
            f"{row.sha256_prefix}…" if row.sha256_prefix else "unknown",
            row.num_classes,
            accuracy,
            transform,
            row.licence or "unknown",
            row.note,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
