"""Write the model folder of a run, and send it to the hub."""

import json
from dataclasses import dataclass
from pathlib import Path

from rexnet._version import __version__
from rexnet.card.config import CardConfig
from rexnet.card.hub_files import folder_config, front_matter
from rexnet.card.text import card_text
from rexnet.card.trained_file import TrainedFile, read_trained
from rexnet.files import made_aside
from rexnet.models.hub import PREFIX, WEIGHTS
from rexnet.training import checkpoint

CONFIG, LABELS, PREPROCESSING, CARD = "config.json", "labels.json", "preprocessing.json", "README.md"
FILES = (WEIGHTS, CONFIG, LABELS, PREPROCESSING, CARD)


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model folder that was written."""

    path: Path
    trained: TrainedFile
    bytes: int
    address: str | None
    """URL of its repository at the hub; None if it was not sent."""


def write_card(config: CardConfig) -> ModelFolder:
    """Write the folder, whole or not at all, and send it with --push.

    ValueError, one sentence, for what is not a run or checkpoint, for a folder that holds other files, and where the
    hub refuses it, with the folder as it was written.
    """
    path = Path(config.output).absolute()
    trained = read_trained(config.run)
    _check_output(config.output, trained, overwrite=config.overwrite)
    with made_aside(path) as inside:
        inside.mkdir()
        _fill(inside, trained, config)
        size = sum(file.stat().st_size for file in inside.iterdir())
    address = send(path, config.push, public=config.public) if config.push else None
    return ModelFolder(path=Path(config.output), trained=trained, bytes=size, address=address)


def _check_output(given: str, trained: TrainedFile, *, overwrite: bool) -> None:
    path, name = Path(given).absolute(), f"--output {given!r}"
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} is a file; name a new or an empty folder")
    if not path.parent.is_dir():
        raise ValueError(f"{name} is in a folder that does not exist; make {str(path.parent)!r} first")
    inside = {file.name for file in path.iterdir()} if path.exists() else set()
    if others := sorted(inside - set(FILES)):
        raise ValueError(f"{name} holds other files, such as {others[0]}; name a new or an empty folder")
    if inside and trained.path.resolve().parent == path.resolve():
        raise ValueError(f"{name} is where {trained.path.name} lies; name a new or an empty folder")
    if inside and not (overwrite and {WEIGHTS, CARD} <= inside):
        hint = "--overwrite replaces it" if {WEIGHTS, CARD} <= inside else "name a new or an empty folder"
        raise ValueError(f"{name} holds files already; {hint}")


def _fill(folder: Path, trained: TrainedFile, config: CardConfig) -> None:
    content = trained.content
    checkpoint.save(folder / WEIGHTS, content)
    values = {CONFIG: folder_config(trained), LABELS: trained.classes}
    if not trained.is_detector:
        values[PREPROCESSING] = content["preprocess"]
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    licence = config.license and config.license.lower()
    name = config.push.partition("/")[2] if config.push else folder.name
    address = f"{PREFIX}{config.push}" if config.push else "."
    head = front_matter(trained, name=name, licence=licence)
    text = card_text(trained, name=name, address=address, licence=licence)
    (folder / CARD).write_text(f"{head}\n{text}", encoding="utf-8")


def send(folder: Path, repository: str, *, public: bool) -> str:
    """Upload the folder to a repository of the hub, as whoever is logged in there, and return its URL."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="rexnet", library_version=__version__)
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="rexnet card"
        )
    # The hub's client lets errors of its HTTP library through, which differ by version.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        later = f"after `hf auth login`, `hf upload {repository} {str(folder)!r}` sends it"
        raise ValueError(f"{str(folder)!r} is written, but could not be sent to the hub ({reason}); {later}") from error
    return str(made)
