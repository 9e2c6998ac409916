"""Commands for detectors."""

import shlex
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rexnet.cli.options import Given, build, fail, read_options
from rexnet.cli.tables import first_of, new_table, percent, print_list, show
from rexnet.cli.training import print_run, read_training
from rexnet.text import quantity

_EXAMPLES = (
    "rexnet detect demo shapes",
    "rexnet detect train shapes --detector mask_rcnn",
    "rexnet detect train COCO_DIR --weights rexnet_100.nav_in1k",
)
_FIRST = (
    "detector",
    "weights",
    "model",
    "recipe",
    "epochs",
    "max_minutes",
    "batch_size",
    "lr",
    "output",
    "resume",
)


def train(arguments: Sequence[str]) -> None:
    """Train a detector on images with boxes"""
    began = time.monotonic()
    from rexnet.cli.help import print_help
    from rexnet.detection.config import DetectTrainConfig
    from rexnet.detection.recipes import DECIDING, EPOCHS, starting_point

    def ask(given: Given, options: Collection[str] = DECIDING) -> DetectTrainConfig:
        return build(DetectTrainConfig, {name: given[name] for name in options if name in given})

    def start(asked: DetectTrainConfig, given: Given) -> DetectTrainConfig:
        return starting_point(asked, epochs=given.get("epochs", EPOCHS))

    def show_help(given: Given) -> None:
        base = start(ask(given, ("recipe", "detector", "weights")), given)
        print_help("detect train", DetectTrainConfig, base=base, examples=_EXAMPLES, first=_FIRST)

    config, limit = read_training(
        "detect train", DetectTrainConfig, arguments, began=began, ask=ask, start=start, show_help=show_help
    )

    from rexnet.detection.train import train

    print_run(train(config, limit=limit), "detect predict", " --out DIR")


def validate(arguments: Sequence[str]) -> None:
    """Measure a trained detector with COCO's metrics"""
    from rexnet.detection.config import DetectValidateConfig
    from rexnet.processes import is_main_process

    config = read_options("detect validate", DetectValidateConfig, arguments)

    from rexnet.detection.validate import validate

    result = validate(config)
    if not is_main_process():
        return
    kinds = [kind for kind in ("box", "mask") if f"{kind}_ap" in result["figures"]]
    classes = new_table("class", "objects", *(f"{kind} {name} %" for kind in kinds for name in ("AP", "AP50")))
    for name, row in result["by_class"].items():
        if row["objects"]:
            precisions = (percent(row[f"{kind}_{key}"]) for kind in kinds for key in ("ap", "ap50"))
            classes.add_row(name, f"{row['objects']:,}", *precisions)
    show(classes)
    names = [name.removeprefix("box_") for name in result["figures"] if name.startswith("box_")]
    metrics = new_table("metric", *(f"{kind} %" for kind in kinds))
    for name in names:
        metrics.add_row(name, *(percent(result["figures"].get(f"{kind}_{name}")) for kind in kinds))
    show(metrics)
    if result["skipped"]:
        print(f"skipped: {first_of(result['skipped'])}")
    summary = "  ".join(f"{kind} AP {percent(result['figures'][f'{kind}_ap'])} %" for kind in kinds)
    print(f"{quantity(result['figures']['images'], 'image')}  {summary}")


def predict(arguments: Sequence[str]) -> None:
    """Find objects in images and draw them"""
    from rexnet.detection.config import DetectPredictConfig
    from rexnet.text import printable

    config = read_options("detect predict", DetectPredictConfig, arguments)

    from rexnet.detection.predict import RESULTS, predict_files

    for found in predict_files(config):
        counts = ", ".join(f"{count} {name}" for name, count in found.counts.items()) or "nothing"
        print(f"skipped: {found.error}" if found.error else f"{printable(found.image)}: {counts}")
    print(f"images and {RESULTS}: {printable(config.out)}")


def convert(arguments: Sequence[str]) -> None:
    """Convert Pascal VOC or YOLO annotations to a COCO folder"""
    from rexnet.data.boxes.boxed_images import MOST_SKIPPED
    from rexnet.data.boxes.convert import ConvertConfig, convert_data

    config = read_options("detect convert", ConvertConfig, arguments)
    converted = convert_data(config)
    for split, images in converted.images.items():
        print(f"{split}: {quantity(images, 'image')} with {quantity(converted.boxes[split], 'object')}")
    skipped = converted.skipped
    print_list("skipped", skipped)
    if skipped:
        print(f"all of them: {shlex.quote(str(Path(config.output, 'skipped.csv')))}")
    print(f"use it: rexnet detect train {shlex.quote(str(config.output))}")
    if converted.skipped_fraction > MOST_SKIPPED:
        fail(f"more than a tenth of the data was skipped: {quantity(len(skipped), 'file')}", code=1)


def demo(arguments: Sequence[str]) -> None:
    """Draw a dataset of shapes to try detection"""
    from rexnet.detection.config import DemoConfig

    config = read_options("detect demo", DemoConfig, arguments)

    from rexnet.data.boxes.shapes import draw_shapes

    counts = draw_shapes(config.output, images=config.images, seed=config.seed, size_px=config.size_px)
    print(", ".join(f"{split}: {quantity(images, 'image')}" for split, images in counts.items()))
    print(f"use it: rexnet detect train {shlex.quote(str(config.output))} --detector mask_rcnn")
