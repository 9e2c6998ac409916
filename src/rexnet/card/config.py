"""Options of `rexnet card`."""

import os
import re
from dataclasses import dataclass
from typing import Annotated

from rexnet.errors import require
from rexnet.files import check_new_folder, check_parent, real_path
from rexnet.models.hub import REPOSITORY, WEIGHTS
from rexnet.options import positional
from rexnet.references import resolve

CONFIG, LABELS, PREPROCESSING, CARD = "config.json", "labels.json", "preprocessing.json", "README.md"
FILES = (WEIGHTS, CONFIG, LABELS, PREPROCESSING, CARD)


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Write a trained model and its model card into a folder, and upload it to the Hugging Face hub on request."""

    run: Annotated[str, positional("RUN")]
    """A run folder of `rexnet train` or `rexnet detect train`, or a checkpoint."""
    output: str
    """Folder to write; new or empty."""
    license: str | None = None
    """Licence of the weights by its name on the hub, such as mit, apache-2.0 or cc-by-4.0; None: the card states that
    there is none. It is never guessed, because it depends on the images and on the initial weights."""
    overwrite: bool = False
    """Replace --output if it contains a model folder and nothing else."""
    push: str | None = None
    """Repository OWNER/NAME on the Hugging Face hub to upload the folder to, created if missing; None: no upload."""
    public: bool = False
    """Make the repository that --push creates public; an existing one is not changed."""

    def __post_init__(self) -> None:
        known = self.license is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", self.license) is not None
        require(known, "license", repr(self.license), "a name such as mit, apache-2.0, cc-by-4.0, other, or None")
        named = self.push is None or re.fullmatch(REPOSITORY, self.push) is not None
        require(named, "push", repr(self.push), "OWNER/NAME, or None")
        require(not self.public or self.push is not None, "public", self.public, "False without --push")

    def check(self) -> None:
        """Raise ValueError for a run or checkpoint that does not exist, and for an --output that contains other files
        or the checkpoint, or a model folder without --overwrite."""
        check_parent(self.output, option="--output")
        check_new_folder(self.output, own=FILES, option="--output")
        source = real_path(resolve(self.run, allowed=("run", "weights")).path)
        inside = set(os.listdir(self.output)) if os.path.exists(self.output) else set()
        if inside and source.parent == real_path(self.output):
            raise ValueError(f"--output {self.output!r} is the folder of {source.name}; name a new or an empty folder")
        if inside and not (self.overwrite and {WEIGHTS, CARD} <= inside):
            hint = "--overwrite replaces it" if {WEIGHTS, CARD} <= inside else "name a new or an empty folder"
            raise ValueError(f"--output {self.output!r} already contains files; {hint}")
