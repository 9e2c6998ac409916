"""README.md of a model folder, below its YAML."""

from typing import Any

from rexnet._version import __version__
from rexnet.card.config_json import timm_name
from rexnet.card.front_matter import starting_weights
from rexnet.card.limits import limits
from rexnet.card.metrics import Figure
from rexnet.card.public_words import escaped, public_command, public_name
from rexnet.card.trained_file import TrainedFile
from rexnet.data.transforms import Preprocess
from rexnet.models.published import PUBLISHED
from rexnet.models.rexnet import RexNetConfig
from rexnet.text import plural
from rexnet.training.run_record import RunRecord

_MAX_CLASSES = 40
_UNKNOWN = "Nothing is known of its training: the checkpoint lay in no run folder."


def card_text(trained: TrainedFile, figures: list[Figure], *, name: str, address: str, licence: str | None) -> str:
    """`address` is what the code in it opens: "hf://OWNER/NAME", or "." for the folder itself."""
    sections = {
        "Use": _use(trained, address),
        "Classes": _classes(trained.classes),
        "Input": _input(trained.content),
        "Measured": _measured(trained, figures),
        "Training": _training(trained, trained.training) if trained.training else _UNKNOWN,
        "Limits": "\n".join(f"- {line}" for line in limits(trained, figures)),
        "Licence": _licence(trained, licence),
    }
    made = f"*Written by `rexnet card` {__version__} from what the training recorded.*"
    return "\n\n".join([_head(trained, name), *(f"## {key}\n\n{text}" for key, text in sections.items()), made, ""])


def _head(trained: TrainedFile, name: str) -> str:
    count = len(trained.classes)
    classes = f"{count:,} {'class' if count == 1 else 'classes'}"
    network = escaped(trained.network)
    if trained.is_rexnet:
        network += " ([ReXNet](https://arxiv.org/abs/2007.00992))"
    if trained.is_detector:
        kind = trained.content["detector"]["kind"]
        found = "boxes and masks" if kind == "mask_rcnn" else "boxes"
        what = f"Finds {found} of objects of {classes} in an image. {escaped(kind)} on {network}"
    else:
        what = f"Names one of {classes} for an image. {network}"
    data = trained.training and trained.training.config.get("data")
    on = f", trained on {escaped(public_name(data))}" if data else ""
    return f"# {escaped(name)}\n\n{what} with {trained.parameters / 1e6:,.2f} million parameters{on}."


def _use(trained: TrainedFile, address: str) -> str:
    where = "In this folder, or with its path in place of the dot" if address == "." else "It is fetched at first use"
    if trained.is_detector:
        made = "from rexnet.detection import ObjectPredictor\n\npredictor = ObjectPredictor"
        shown = 'for found in predictor("picture.jpg", min_score=0.5):\n    print(found.names, found.output["boxes"])'
        command = f"rexnet detect predict {address} PICTURES --out found"
    else:
        made = "import rexnet\n\npredictor = rexnet.Predictor"
        shown = 'for prediction in predictor("picture.jpg"):\n    print(prediction.best)'
        command = f"rexnet predict {address} PICTURES"
    parts = [
        f"With the Python package `rexnet`, version {__version__} or newer. {where}:",
        f'```python\n{made}("{address}")\n{shown}\n```',
        f"```sh\n{command}\n```",
    ]
    if not trained.is_detector:
        parts += _other_readers(trained, address)
    return "\n\n".join(parts)


def _other_readers(trained: TrainedFile, address: str) -> list[str]:
    parts = [f'`rexnet.load("{address}")` gives the PyTorch network with its `classes` and `preprocess`.']
    if timm_name(RexNetConfig.from_dict(trained.content["model"])):
        source = "local-dir:." if address == "." else f"hf-hub:{address.removeprefix('hf://')}"
        lines = ("import rexnet", "import timm", "", "rexnet.register_with_timm()")
        code = "\n".join([*lines, f'model = timm.create_model("{source}", pretrained=True)'])
        parts.append(f"In timm it goes by the layer names of the original ReXNet:\n\n```python\n{code}\n```")
    return parts


def _classes(classes: list[str]) -> str:
    shown = ", ".join(map(escaped, classes[:_MAX_CLASSES]))
    more = f" and {len(classes) - _MAX_CLASSES:,} more" if len(classes) > _MAX_CLASSES else ""
    return f"{shown}{more}. `labels.json` has them in the order of the outputs."


def _input(content: dict[str, Any]) -> str:
    if "detector" in content:
        config = content["detector"]
        square = config["kind"] == "ssdlite"
        size = f"to a square of {config['min_size_px']} pixels"
        if not square:
            size = f"to a shorter side of {config['min_size_px']} pixels, the longer at most {config['max_size_px']}"
        return f"RGB images of any size, values from 0 to 1. The model itself normalises them and resizes them {size}."
    preprocess = Preprocess.from_dict(content["preprocess"])
    size_px, ratio = preprocess.image_size_px, preprocess.crop_ratio
    middle = "" if ratio == 1 else f" of {preprocess.short_side_px} pixels and cut to the middle {size_px} x {size_px}"
    resized = middle or f" of {size_px} pixels and cut to the middle square"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return (
        f"Upright RGB images, resized ({preprocess.interpolation}) to a short side{resized}; values from 0 to 1, minus "
        f"the mean ({mean}), divided by the deviation ({std}). `preprocessing.json` says the same."
    )


def _measured(trained: TrainedFile, figures: list[Figure]) -> str:
    if not figures:
        return "The checkpoint holds no measured figures."
    images = trained.metrics.get("val_images")
    count = f"{images:,} images" if images else "images"
    if trained.training:
        goal = ", by which this epoch was chosen among all" if trained.is_best else ""
        on = f"On the {count} that the training held back{goal}:"
    else:
        on = f"These figures stand in the checkpoint; on which {count} they were measured is not known:"
    return f"{on}\n\n{_figure_table(figures)}"


def _figure_table(figures: list[Figure]) -> str:
    """A table, with a column and a sentence about intervals where a figure has one."""
    if not any(figure.interval for figure in figures):
        rows = [f"| {figure.name} | {figure.percent:.2f} |" for figure in figures]
        return "\n".join(["| figure | % |", "| --- | ---: |", *rows])
    lines = ["| figure | % | 95 % interval |", "| --- | ---: | ---: |"]
    for figure in figures:
        interval = f"{figure.interval[0]:.1f} to {figure.interval[1]:.1f}" if figure.interval else ""
        lines.append(f"| {figure.name} | {figure.percent:.2f} | {interval} |")
    return "\n".join([*lines, "", "The interval is that of drawing so many images, and of nothing else."])


def _training(trained: TrainedFile, training: RunRecord) -> str:
    facts = {
        "data": escaped(public_name(training.data.description if training.data else "unknown")),
        "recipe": escaped(training.config.get("recipe", "unknown")),
        "started from": _started_from(trained),
        "epochs": _epochs(trained, training),
        "seed": escaped(training.option("run", "seed")),
        **_environment(training.environment),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value]
    table = "\n".join(["| | |", "| --- | --- |", *rows])
    if not (command := training.environment.get("command")):
        return table
    made = "The command that made it; of a path elsewhere on its machine, only the last part is shown:"
    return f"{table}\n\n{made}\n\n    {public_command(command)}"


def _started_from(trained: TrainedFile) -> str:
    weights = starting_weights(trained)
    return "random weights" if weights is None else escaped(public_name(weights))


def _epochs(trained: TrainedFile, training: RunRecord) -> str:
    asked, done = training.option("schedule", "epochs"), len(training.rows)
    minutes = sum(row.get("seconds", 0.0) for row in training.rows) / 60
    of_all = f"{done} of {asked}" if asked and done != asked else f"{done}"
    return f"{of_all}, in {minutes:,.1f} minutes; these weights are of epoch {trained.metrics.get('epoch', 'unknown')}"


def _environment(environment: dict[str, Any]) -> dict[str, str]:
    def said(*names: str) -> str:
        return ", ".join(f"{name} {environment[name]}" for name in names if environment.get(name))

    device = escaped(environment.get("device", "unknown"))
    if device == "cpu" and (threads := environment.get("threads")):
        device = f"CPU, {threads} {plural(threads, 'thread')}"
    if (processes := environment.get("processes", 1)) > 1:
        device = f"{processes} x {device}"
    return {
        "versions": escaped(said("rexnet", "torch", "torchvision", "timm", "python")),
        "source": escaped(f"commit {environment['commit']}") if environment.get("commit") else "",
        "hardware": device,
        "begun": escaped(environment.get("time", "")),
    }


def _licence(trained: TrainedFile, licence: str | None) -> str:
    lines = [
        f"{escaped(licence)}, as stated by whoever wrote this card."
        if licence
        else "None is stated, and without one nobody but its maker may rely on being allowed to use it. "
        "The licence of the package `rexnet` is not that of this model."
    ]
    weights = starting_weights(trained)
    if weights in PUBLISHED:
        theirs = PUBLISHED[weights].licence
        lines.append(f"The weights that training started from: {theirs or 'licence unknown'}, by their publisher.")
    elif weights:
        lines.append("The weights that training started from have a licence of their own.")
    return " ".join(lines)
