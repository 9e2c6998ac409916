"""Files named by annotations, confined to one folder."""

import os
from pathlib import Path
from typing import NoReturn, final

from rexnet.text import normal_name, printable


def find_image_folder(annotation_file: str | Path, file_names: list[str]) -> str:
    """Return the folder in which the first of `file_names` is found.

    For ROOT/annotations/instances_X.json that is ROOT/X, ROOT/images/X, the same without the year, ROOT/images or ROOT;
    for a file elsewhere, also its own folder. Raise a ValueError that lists these folders if none has an image.
    """
    file = Path(annotation_file).absolute()
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    split = file.stem.removeprefix("instances_")
    names = dict.fromkeys((split, split.rstrip("0123456789")))
    folders = [root / more / name for name in names for more in ("", "images")]
    folders = [folder for folder in [*folders, root / "images", root] if folder.is_dir()]
    files = [NamedFiles(folder, named_by="") for folder in folders]
    for file_name in file_names:
        for folder in files:
            if folder.find(file_name, follow_out=True) is not None:
                return folder.folder
    looked = ", ".join(printable(folder) for folder in folders)
    first = printable(file_names[0]) if file_names else "any image"
    raise ValueError(f"no image of {printable(annotation_file)}, such as {first}, was found; looked in {looked}")


@final
class NamedFiles:
    """Files and folders below `folder`, by names from untrusted data; `named_by` begins error messages, such as "A has
    the file name"."""

    def __init__(self, folder: str | Path, *, named_by: str):
        self.folder, self._named_by = os.fspath(folder), named_by
        self._root = os.path.realpath(folder)
        self._real_folders: dict[str, str] = {}
        self._by_normal_name: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, *, follow_out: bool = False) -> str | None:
        """Return the existing name below the folder: `name` itself, else with / in place of backslashes, else the only
        name with the same Unicode normal form; None if there is none.

        Raise ValueError for a name that leads out of the folder, and, unless `follow_out`, for a link that does.
        """
        parts = name.replace("\\", "/").split("/")
        if os.path.isabs(name) or "\0" in name or ".." in parts:
            if follow_out:
                return None
            self._raise(name, "which is absolute, or contains .. or a null byte")
        candidates = (name, "/".join(parts))
        there = next((each for each in candidates if os.path.exists(os.path.join(self.folder, each))), None)
        found = there or self._find_normal_name(parts)
        if found is not None and not follow_out:
            self.real_path(found)
        return found

    def real_path(self, name: str) -> str:
        """Return the path of a file below the folder, with links resolved. Raise ValueError if it lies outside."""
        folder, file = os.path.split(os.path.join(self.folder, name))
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        path = os.path.join(self._real_folders[folder], file)
        if os.path.islink(path):
            path = os.path.realpath(path)
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            self._raise(name, "which is a link that leads out of the folder")
        return path

    def _find_normal_name(self, parts: list[str]) -> str | None:
        found = ""
        for part in parts:
            if not os.path.exists(os.path.join(self.folder, found, part)):
                same = self._entries(found).get(normal_name(part), [])
                if len(same) != 1:
                    return None
                part = same[0]
            found = os.path.join(found, part)
        return found if os.path.exists(os.path.join(self.folder, found)) else None

    def _entries(self, name: str) -> dict[str, list[str]]:
        if name not in self._by_normal_name:
            folder = os.path.join(self.folder, name)
            entries = self._by_normal_name[name] = {}
            for entry in os.listdir(folder) if os.path.isdir(folder) else ():
                entries.setdefault(normal_name(entry), []).append(entry)
        return self._by_normal_name[name]

    def _raise(self, name: str, why: str) -> NoReturn:
        raise ValueError(f"{self._named_by} names {name!r}, {why}; files must be in {printable(self.folder)}")
