"""Where the images of an annotation file are, and that none of them is elsewhere."""

import os
from pathlib import Path

from rexnet.text import printable


def find_image_folder(annotation_file: str | Path, file_names: list[str]) -> str:
    """The folder that holds the first of `file_names` that is found at all. For ROOT/annotations/instances_X.json that
    is ROOT/X, ROOT/images/X, the same without the year, ROOT/images or ROOT; for a file elsewhere also its own folder.
    Raises ValueError that names all of these."""
    file = Path(annotation_file).absolute()
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    side = file.stem.removeprefix("instances_")
    sides = dict.fromkeys((side, side.rstrip("0123456789")))
    folders = [root / more / part for part in sides for more in ("", "images")]
    folders = [folder for folder in [*folders, root / "images", root] if folder.is_dir()]
    for file_name in file_names:
        for folder in folders:
            if os.path.isfile(folder / file_name):
                return str(folder)
    looked = ", ".join(printable(folder) for folder in folders)
    first = printable(file_names[0]) if file_names else "any image"
    raise ValueError(f"no image of {printable(annotation_file)}, such as {first}, was found; looked in {looked}")


class Confinement:
    """Keeps file names within the image folder: an annotation file is data from anywhere."""

    def __init__(self, image_folder: str, annotation_file: str):
        self._folder, self._annotation_file = image_folder, annotation_file
        self._root = os.path.realpath(image_folder)
        self._checked_folders: dict[str, str] = {}

    def path(self, name: str) -> str:
        """The file, links followed. Raises ValueError where it lies outside."""
        if os.path.isabs(name) or "\0" in name or ".." in name.replace("\\", "/").split("/"):
            self._refuse(name, "which is absolute or has .. or a zero byte in it")
        folder, file = os.path.split(os.path.join(self._folder, name))
        if folder not in self._checked_folders:
            self._checked_folders[folder] = os.path.realpath(folder)
        path = os.path.join(self._checked_folders[folder], file)
        if os.path.islink(path):
            path = os.path.realpath(path)
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            self._refuse(name, "which is a link out of it")
        return path

    def _refuse(self, name: str, why: str) -> None:
        raise ValueError(
            f"{self._annotation_file} has an image with the file_name {name!r}, {why}; "
            f"images must lie in {printable(self._folder)}"
        )
