"""Search for image files by name: in folders, at any depth, and by patterns."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rexnet.data.decode import content_format
from rexnet.errors import BadImageError
from rexnet.text import plural, printable, some_names

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp"),
    *(".tif", ".tiff", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".avif"),
)

OTHER_EXTENSIONS = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".tga", ".svg", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""Image formats that cannot be read; such files are reported, never ignored silently."""

_SIDE_EXTENSIONS = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html", ".htm", ".pdf"),
    *(".db", ".ini", ".log", ".cache", ".names", ".data", ".cfg", ".cls", ".lnk", ".url", ".xmp", ".aae", ".thm"),
    *(".npy", ".npz", ".mat", ".pkl", ".parquet", ".arrow", ".h5", ".pt", ".pth", ".safetensors", ".onnx"),
    *(".py", ".ipynb", ".sh", ".bat", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".md5", ".sha256", ".tfrecord"),
}
_SIDE_NAMES = {"readme", "license", "makefile", "md5sums", "icon\r"}
"""Lower-case extensions, and names without one, of files that accompany images; any other file might be an image."""


class FoundImages(NamedTuple):
    """Sorted paths of images: `files` with one of IMAGE_EXTENSIONS, `other` with one of OTHER_EXTENSIONS or an unknown
    extension and no readable copy of the same name."""

    files: list[str]
    other: list[str]


def image_files(folder: str | Path) -> list[str]:
    """Return the `files` of `list_images`."""
    return list_images(folder).files


def all_images(folder: str | Path) -> list[str]:
    """Return the images of `list_images` and those in other formats, for readers that report unreadable files."""
    found = list_images(folder)
    return sorted([*found.files, *found.other])


def list_images(folder: str | Path) -> FoundImages:
    """Return the images below `folder`, at any depth, by their extensions.

    Hidden names (`is_hidden`) are skipped, and links are followed (a folder inside itself only once). Broken links are
    included: opening one raises BadImageError.
    """
    found = sorted(_walk(os.fspath(folder), ()))
    files = list(filter(has_image_extension, found))
    converted = {os.path.splitext(path)[0] for path in files}
    other = [path for path in found if is_other_file(path) and os.path.splitext(path)[0] not in converted]
    return FoundImages(files, other)


def require_images(paths: Iterable[str]) -> None:
    """Raise ValueError as `find_images` does; folders are searched up to the first image."""
    if doubtful := [path for path in paths if not (os.path.isdir(path) and holds_images(path))]:
        find_images(doubtful)


def holds_images(path: str) -> bool:
    """Return whether a path is an image or a folder with one, by extension."""
    return any(map(has_image_extension, _walk(path, ()) if os.path.isdir(path) else [path]))


def describe_other(paths: Sequence[str]) -> str:
    """Describe the files in other formats, those among them whose first bytes show a known format, and what to do."""
    contents = {path: _known_content(path) for path in paths}
    unread = [path for path, content in contents.items() if content is None]
    counts = Counter(os.path.splitext(path)[1].lower() for path in unread)
    kinds = ", ".join(f"{count:,} {extension or 'extensionless'}" for extension, count in sorted(counts.items()))
    clauses = []
    if unread:
        noun = plural(len(unread), "file")
        clauses.append(f"{kinds} {noun} cannot be read and will not be used; convert to JPEG or PNG")
    if renamed := [
        f"{os.path.basename(path)} is in the {content} format" for path, content in contents.items() if content
    ]:
        clauses.append(f"{some_names(renamed)}: rename {'it to use it' if len(renamed) == 1 else 'them to use them'}")
    return "; ".join(clauses)


def _known_content(path: str) -> str | None:
    try:
        return content_format(path)
    except BadImageError:
        return None


def is_hidden(name: str) -> bool:
    """Return whether a file, folder or archive member of this name is ignored: .DS_Store, ._1.jpg, __MACOSX."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def has_image_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def has_other_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in OTHER_EXTENSIONS


def is_other_file(name: str) -> bool:
    """Return whether a file of this name may be an unsupported image: its extension is neither a known image extension
    nor one of files that accompany images."""
    stem, extension = os.path.splitext(os.path.basename(name).lower())
    side = extension in _SIDE_EXTENSIONS or (not extension and stem in _SIDE_NAMES)
    return not side and not has_image_extension(name)


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """Return the image files that `sources` name: files (with any extension), folders (`image_files`) and glob
    patterns; in the given order, each once per source. The number of images in unsupported formats is logged. Raise
    ValueError for a source that does not exist, a broken link, and a folder or pattern without images.
    """
    paths: list[str] = []
    other: list[str] = []
    for item in sources:
        source = os.fspath(item)
        if os.path.isdir(source):
            found, unread = list_images(source)
        elif os.path.lexists(source):
            found, unread = [source], []
        elif glob.has_magic(source):
            found, unread = _expand(source)
        else:
            raise ValueError(
                f"{printable(source)} does not exist; give image files, folders or patterns such as a/*.jpg"
            )
        if not found:
            reason = f": {describe_other(unread)}" if unread else ""
            raise ValueError(f"{printable(source)} contains no images{reason} (known: {' '.join(IMAGE_EXTENSIONS)})")
        paths += dict.fromkeys(found)
        other += unread
    if other:
        logger.warning("%s", describe_other(list(dict.fromkeys(other))))
    return [Path(path) for path in paths]


def _expand(pattern: str) -> FoundImages:
    found = FoundImages([], [])
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            inside = list_images(match)
            found.files.extend(inside.files)
            found.other.extend(inside.other)
        elif has_image_extension(match):
            found.files.append(match)
        elif is_other_file(match):
            found.other.append(match)
    return found


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder, is_file = False, False
            if is_folder:
                yield from _walk(entry.path, (*above, here))
            elif has_image_extension(entry.name) or has_other_extension(entry.name):
                if is_file or not os.path.exists(entry.path):
                    yield entry.path
            elif is_file and is_other_file(entry.name):
                yield entry.path
