"""README.md of a model folder, below its YAML, filled in from card.md.jinja."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rexnet._version import __version__
from rexnet.card.hub_files import timm_name
from rexnet.card.public_text import escape, public_command, public_name
from rexnet.card.trained_file import TrainedFile
from rexnet.data.preprocess import Preprocess
from rexnet.models.hub import PREFIX
from rexnet.models.published import PUBLISHED
from rexnet.text import plural
from rexnet.training.run_record import RunRecord


def card_text(trained: TrainedFile, *, name: str, address: str, licence: str | None) -> str:
    """Return the card. `address` is what the code in it opens: "hf://OWNER/NAME", or "." for the folder itself."""
    environment = Environment(
        loader=PackageLoader("rexnet.card", "."),
        finalize=_escape_unless_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "public": public_name,
        "numbers": _numbers,
        "plural": lambda noun, count: plural(count, noun),
    }
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
    """Escape what goes into the card, but for what the template marks with `|safe`."""
    return value if hasattr(value, "__html__") else escape(value)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _training_facts(trained: TrainedFile, run: RunRecord) -> dict[str, Any]:
    """Return the rows of the table about the training."""
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
        device = f"CPU, {threads} {plural(threads, 'thread')}"
    processes = environment.get("processes", 1)
    return f"{processes} x {device}" if processes > 1 else device
