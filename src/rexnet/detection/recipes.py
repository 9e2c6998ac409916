"""Recipes for detectors: functions that return a complete configuration.

The paper states neither the schedule nor the learning rate of its detectors; these are the usual ones.
"""

from dataclasses import replace

from rexnet.data.config import DetectionAugmentConfig
from rexnet.detection.config import DetectorOptions, DetectTrainConfig, Kind, RecipeName
from rexnet.training.budget import learn_in_few_steps
from rexnet.training.config import OptimConfig, RunConfig, ScheduleConfig
from rexnet.training.resume import settings_to_resume

EPOCHS = 50
"""Epochs of the recipe small."""
_MILESTONES = {1: (8, 11), 2: (16, 22), 3: (28, 34)}


def coco_pyramid(data: str, *, times: int) -> DetectTrainConfig:
    """Return settings for Faster and Mask R-CNN on COCO at 1200 x 800: 12 epochs `times` 1, 2 or 3, at a total batch of
    16.

    Command: torchrun --nproc-per-node 8 -m rexnet detect train COCO_DIR --recipe 1x --weights rexnet_100.nav_in1k
    Hardware: 8 GPUs. Expect about the values of the paper's Tables 7 and 9, for rexnet_100 a box AP of 38.5 (README;
    schedule unknown; untested here). Source: the schedules in facebookresearch/detectron2 MODEL_ZOO.md, SGD at 0.02 for
    16 images.
    """
    return DetectTrainConfig(
        data=data,
        recipe=_NAMES[times],
        network=DetectorOptions(min_size=800, max_size=1200),
        optim=OptimConfig(optimizer="momentum", lr=0.02, lr_batch=16, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleConfig(
            schedule="multistep",
            epochs=12 * times,
            decay_milestones=_MILESTONES[times],
            warmup_epochs=0.1,
            warmup_lr=2e-5,
        ),
        run=RunConfig(batch_size=2),
    )


def coco_ssdlite(data: str, *, times: int) -> DetectTrainConfig:
    """Return settings for SSDLite on COCO at 320 pixels: 100 epochs `times` 1, 2 or 3, at a total batch of 192.

    Command: torchrun --nproc-per-node 8 -m rexnet detect train COCO_DIR --detector ssdlite --recipe 3x --weights ...
    Hardware: 8 GPUs. The paper's Table 6 reports AP 25.3 for rexnet_100 on test-dev; untested here. Source of
    augmentation and learning rate: torchvision references/detection, for its own SSDLite; the numbers of epochs are our
    choice.
    """
    return DetectTrainConfig(
        data=data,
        recipe=_NAMES[times],
        network=DetectorOptions(detector="ssdlite"),
        augment=DetectionAugmentConfig(iou_crop=True),
        optim=OptimConfig(lr=0.15, lr_batch=192, momentum=0.9, weight_decay=4e-5, clip_grad=10.0),
        schedule=ScheduleConfig(schedule="cosine", epochs=100 * times, warmup_epochs=1.0),
        run=RunConfig(batch_size=24),
    )


def small(data: str, *, kind: Kind, epochs: int = EPOCHS, pretrained: bool = False) -> DetectTrainConfig:
    """Return settings for a custom dataset of a few hundred to a thousand images, at about 512 pixels (ssdlite 320).

    Command: rexnet detect train COCO_DIR --detector mask_rcnn --weights rexnet_100.nav_in1k
    Hardware: one GPU, or hours on a CPU. Our choice, measured on the shapes of `rexnet detect demo`
    (results/detection.jsonl); without weights, ssdlite uses the settings that the recipe scratch has for classifiers.
    """
    single_stage = kind == "ssdlite"
    network = (
        DetectorOptions(detector=kind)
        if single_stage
        else DetectorOptions(detector=kind, min_size=512, max_size=853, proposals=300)
    )
    start = DetectTrainConfig(
        data=data,
        recipe="small",
        network=network,
        optim=OptimConfig(
            optimizer="adamw", lr=1e-3 if single_stage else 5e-4, lr_batch=16, weight_decay=0.01, clip_grad=10.0
        ),
        schedule=ScheduleConfig(schedule="cosine", epochs=EPOCHS, warmup_epochs=1.0),
        run=RunConfig(batch_size=16 if single_stage else 4),
    )
    if pretrained or not single_stage:
        return start
    start = learn_in_few_steps(start, epochs=epochs)
    return replace(start, optim=replace(start.optim, clip_grad=5.0), run=RunConfig(batch_size=8))


DECIDING = ("data", "recipe", "detector", "weights", "resume", "output")
"""Options that determine the defaults of the others."""

_NAMES: dict[int, RecipeName] = {1: "1x", 2: "2x", 3: "3x"}


def make_recipe(asked: DetectTrainConfig, *, epochs: int = EPOCHS) -> DetectTrainConfig:
    """Return the configuration for the recipe and detector in `asked`; `small` also depends on `epochs`."""
    kind = asked.network.detector
    if asked.recipe == "small":
        pretrained = asked.network.weights is not None
        return small(asked.data, kind=kind, epochs=epochs, pretrained=pretrained)
    times = int(asked.recipe[0])
    if kind == "ssdlite":
        return coco_ssdlite(asked.data, times=times)
    recipe = coco_pyramid(asked.data, times=times)
    return replace(recipe, network=replace(recipe.network, detector=kind))


def starting_point(asked: DetectTrainConfig, *, epochs: int = EPOCHS) -> DetectTrainConfig:
    """Return the configuration that the given options override: the configuration of the run to resume, or of the
    recipe.

    `asked` holds the given options of DECIDING and defaults otherwise; the recipe also depends on `epochs`, if given.
    """
    if asked.run.resume and (saved := settings_to_resume(asked)):
        return saved
    return make_recipe(asked, epochs=epochs)
