"""Write the model folder of a run with its README.md, and send it to the hub."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rexnet._version import __version__
from rexnet.card.config import CARD, CONFIG, FILES, LABELS, PREPROCESSING, CardConfig
from rexnet.card.hub_files import escape, folder_config, front_matter, public_command, public_name, timm_name
from rexnet.card.trained_file import TrainedFile, read_trained
from rexnet.data.preprocess import Preprocess
from rexnet.files import made_aside
from rexnet.models.hub import PREFIX, WEIGHTS
from rexnet.models.published import PUBLISHED
from rexnet.text import quantity
from rexnet.training import checkpoint
from rexnet.training.run_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """Model folder written by `write_card`."""

    path: Path
    trained: TrainedFile
    bytes: int
    address: str | None
    """URL of its repository on the hub; None if it was not uploaded."""


def write_card(config: CardConfig) -> ModelFolder:
    """Write the folder atomically, and upload it with --push. Raise ValueError for a path that is not a run or
    checkpoint, for a folder that contains other files, and if the hub rejects the upload, which leaves the written
    folder in place.
    """
    config.check()
    path = Path(config.output).absolute()
    trained = read_trained(config.run)
    with made_aside(path) as inside:
        inside.mkdir()
        _fill(inside, trained, config)
        size = sum(file.stat().st_size for file in inside.iterdir())
    address = send(path, config.push, public=config.public) if config.push else None
    return ModelFolder(path=Path(config.output), trained=trained, bytes=size, address=address)


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
    """Upload the folder to a repository on the hub as the logged-in user, and return its URL."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="rexnet", library_version=__version__)
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="rexnet card"
        )
    # Catch all: the hub's client raises errors of its HTTP library, which differ by version.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        later = f"after `hf auth login`, `hf upload {repository} {str(folder)!r}` uploads it"
        raise ValueError(
            f"{str(folder)!r} was written, but could not be uploaded to the hub ({reason}); {later}"
        ) from error
    return str(made)


def card_text(trained: TrainedFile, *, name: str, address: str, licence: str | None) -> str:
    """Return the card. Its example code opens `address`: "hf://OWNER/NAME", or "." for the folder itself."""
    environment = Environment(
        loader=PackageLoader("rexnet.card", "."),
        finalize=_escape_unless_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"public": public_name, "numbers": _numbers, "quantity": quantity}
    run, weights = trained.run, trained.starting_weights
    return environment.get_template("card.md.jinja").render(
        trained=trained,
        run=run,
        name=name,
        address=address,
        licence=licence,
        version=__version__,
        measured=trained.measurements(),
        in_timm=trained.config is not None and timm_name(trained.config) is not None,
        timm_address="local-dir:." if address == "." else f"hf-hub:{address.removeprefix(PREFIX)}",
        preprocess=None if trained.is_detector else Preprocess.from_dict(trained.content["preprocess"]),
        facts=_training_facts(trained, run) if run else {},
        command=public_command(run.environment["command"]) if run and run.environment.get("command") else None,
        published=PUBLISHED.get(weights) if weights else None,
    )


def _escape_unless_safe(value: object) -> object:
    """Escape values for the card; the template exempts some with `|safe`."""
    return value if hasattr(value, "__html__") else escape(value)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _training_facts(trained: TrainedFile, run: RunRecord) -> dict[str, Any]:
    """Return the rows of the table about training."""
    environment = run.environment
    planned, done = run.option("schedule", "epochs"), len(run.rows)
    minutes = sum(row.get("seconds", 0.0) for row in run.rows) / 60
    epochs = f"{done} of {planned}" if planned and done != planned else f"{done}"
    names = [name for name in ("rexnet", "torch", "torchvision", "timm", "python") if environment.get(name)]
    facts = {
        "data": public_name(run.data.description if run.data else "unknown"),
        "recipe": run.config.get("recipe", "unknown"),
        "initial weights": public_name(trained.starting_weights or "random"),
        "epochs": f"{epochs}, in {minutes:,.1f} minutes; these weights are from epoch "
        f"{trained.metrics.get('epoch', 'unknown')}",
        "seed": run.option("run", "seed"),
        "versions": ", ".join(f"{name} {environment[name]}" for name in names),
        "source": f"commit {environment['commit']}" if environment.get("commit") else None,
        "hardware": _hardware(environment),
        "started": environment.get("time"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _hardware(environment: dict[str, Any]) -> str:
    device = str(environment.get("device", "unknown"))
    if device == "cpu" and (threads := environment.get("threads")):
        device = f"CPU, {quantity(threads, 'thread')}"
    processes = environment.get("processes", 1)
    return f"{processes} x {device}" if processes > 1 else device
