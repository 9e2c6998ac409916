"""Training of detectors on the one loop."""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rexnet.data.boxes.coco import CocoImages, CocoSets, refuse_missing_files
from rexnet.data.boxes.loaders import DetectionBatch, EvalDetectionBatches, TrainDetectionBatches
from rexnet.data.boxes.transforms import DetectionTransform
from rexnet.data.datasets import open_dataset
from rexnet.data.facts import DataFacts
from rexnet.detection.checkpoints import pack
from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.detectors import create_detector
from rexnet.detection.evaluation import check_ground_truth, evaluate_detector, require_evaluator
from rexnet.detection.norms import prepare_norms
from rexnet.detection.warm_start import is_detector_file, load_detector_weights
from rexnet.references import OWN_WEIGHTS, resolve
from rexnet.text import printable
from rexnet.training.classify import choose_workers
from rexnet.training.distributed import World, joined
from rexnet.training.loop import Task, choose_autocast, fit
from rexnet.training.memory import keep_freed_memory
from rexnet.training.optimization import check_optimizer
from rexnet.training.run_folder import RunFolder, folder_to_resume, local_path, open_run
from rexnet.training.summary import resumable, write_summary
from rexnet.training.tensorboard_events import require_tensorboard

logger = logging.getLogger(__name__)


def train(config: DetectTrainConfig) -> dict[str, Any]:
    """Trains as `config` says and leaves everything in the run folder; returns what its summary.json holds.

    Raises ValueError, one sentence, for settings, data or weights that do not go together.
    """
    config.check()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if config.run.tensorboard:
        require_tensorboard()
    require_evaluator()
    with joined(config.run.device) as world:
        if world.device.type == "cpu":
            keep_freed_memory()
        # Nothing is written, and no older run replaced, before settings, data and weights are known to go together.
        sets = open_dataset(config.data).for_detection()
        if config.bad_image == "error":
            refuse_missing_files(sets.train)
            refuse_missing_files(sets.val)
        check_ground_truth(sets.val.to_coco())
        if config.goal == "mask_ap" and not sets.val.has_masks:
            raise ValueError(
                "the validation images have boxes but no masks, by which Mask R-CNN's best epoch is chosen; "
                "--detector faster_rcnn and ssdlite need none"
            )
        torch.manual_seed(config.run.seed)
        resumes = config.run.resume and RunFolder(folder_to_resume(config)).has_checkpoint
        model = build_model(config.network, sets.train.classes, load=not resumes)
        pretrained = config.network.weights is not None
        norms = prepare_norms(model, bn=config.network.bn, pretrained=pretrained, images_per_step=config.run.batch_size)
        check_optimizer(model, config.optim, config.schedule, total_batch=config.run.batch_size * world.size)
        batches = _make_batches(sets, model, config, world)
        with closing(open_run(config, world)) as run:
            facts = data_facts(sets, config.data)
            _note_data(facts, run=run, world=world)
            if world.is_main:
                logger.info("recipe %s", config.recipe)
                logger.info("%s", norms)
            with resumable(run, world, command="rexnet detect train"):
                best, skipped = _fit(model, sets, batches, config=config, run=run, world=world)
            subject = {"model": config.subject[0], "data": facts.description}
            return write_summary(run, subject, best, goal=config.goal, skipped=skipped, world=world)


def build_model(options: DetectorOptions, classes: tuple[str, ...], *, load: bool = True) -> nn.Module:
    """The detector for these classes, with `options.weights` in it if `load`."""
    make = partial(
        create_detector, options.detector, backbone=options.model, num_classes=len(classes), **options.overrides()
    )
    weights = options.weights
    if weights is None or not load:
        return make()
    reference = resolve(weights, allowed=("published", *OWN_WEIGHTS))
    if reference.kind == "published":
        return make(weights=weights)
    file = str(reference.file)
    if not is_detector_file(file):
        return make(weights=file)
    model = make()
    load_detector_weights(model, file, classes=classes)
    return model


def _make_batches(
    sets: CocoSets, model: nn.Module, config: DetectTrainConfig, world: World
) -> tuple[TrainDetectionBatches, EvalDetectionBatches]:
    """Training and held-back batches of this process."""
    transform = DetectionTransform(config.augment)
    # What the transform has resized the detector takes as it is, in training only.
    model.get_submodule("transform")._skip_resize = transform.resizes  # pyright: ignore[reportArgumentType]
    shared = {
        "device": world.device,
        "workers": choose_workers(config.run.workers, world),
        "rank": world.rank,
        "world_size": world.size,
        "bad_image": config.bad_image,
        "pin_memory": world.device.type == "cuda",
    }
    train_batches = TrainDetectionBatches(
        sets.train,
        transform,
        batch_size=config.run.batch_size,
        seed=config.run.seed,
        masks=config.network.detector == "mask_rcnn",
        **shared,
    )
    return train_batches, EvalDetectionBatches(sets.val, batch_size=config.run.batch_size, **shared)


def _fit(
    model: nn.Module,
    sets: CocoSets,
    batches: tuple[TrainDetectionBatches, EvalDetectionBatches],
    *,
    config: DetectTrainConfig,
    run: RunFolder,
    world: World,
) -> tuple[dict[str, Any], list[str]]:
    """The best epoch's row, and the images that could not be read."""
    train_batches, val_batches = batches
    task = detection_task(sets.train, sets.val, val_batches, config=config, world=world)
    best = fit(model, train_batches, task, config=config, run=run, world=world)
    skipped = world.gather([*train_batches.skipped, *val_batches.skipped])
    return best, sorted({printable(name) for name in skipped})


def detection_task(
    train: CocoImages, val: CocoImages, val_batches: EvalDetectionBatches, *, config: DetectTrainConfig, world: World
) -> Task:
    """The detector's own losses on batches of `train`, COCO's figures on those of `val`."""
    dtype = choose_autocast(config.run.amp, world.device)

    def evaluate_held_back(model: nn.Module) -> dict[str, float]:
        return evaluate_detector(model, val_batches, val, world=world, autocast_dtype=dtype).figures

    return Task(
        loss=partial(detection_loss, device=world.device, name_image=train.name),
        evaluate=evaluate_held_back,
        pack=partial(pack, classes=train.classes, category_ids=train.category_ids.tolist()),
        name_image=train.name,
        goal=config.goal,
        static=lambda model: model.get_submodule("backbone"),
        told=("box_ap", "box_ap50", "mask_ap", "mask_ap50"),
    )


def detection_loss(
    model: nn.Module, batch: DetectionBatch, *, device: torch.device, name_image: Callable[[int], str]
) -> dict[str, Tensor]:
    """The sum of the detector's losses, which torchvision weighs alike, and each of them. ValueError that names the
    picture with the most objects where they do not fit into memory."""
    images = [image.to(device) for image in batch.images]
    targets = [{name: values.to(device) for name, values in target.items()} for target in batch.targets]
    try:
        losses = model(images, targets)
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        objects = [len(target["boxes"]) for target in targets]
        name = printable(name_image(int(batch.indices[objects.index(max(objects))])))
        raise ValueError(
            f"memory is full at a step with {sum(objects):,} objects, {max(objects):,} of them in {name}; a smaller "
            "--batch-size, --max-size or --proposals needs less"
        ) from error
    return {"loss": torch.stack([loss.float() for loss in losses.values()]).sum(), **losses}


def _note_data(facts: DataFacts, *, run: RunFolder, world: World) -> None:
    """Note the facts about the data, or check that those of a run that goes on are what it began with."""
    run.note_data(facts, main=world.is_main)
    world.wait()
    if world.is_main:
        logger.info("%s", facts.description)


def data_facts(sets: CocoSets, data: str) -> DataFacts:
    """Counts and fingerprint of a folder in COCO's layout."""
    return DataFacts(
        title=printable(Path(data).resolve().name),
        train_images=len(sets.train),
        val_images=len(sets.val),
        classes=sets.train.classes,
        train_objects=len(sets.train.labels),
        val_objects=len(sets.val.labels),
        category_ids=tuple(sets.train.category_ids.tolist()),
        fingerprint=_fingerprint(sets),
        path=local_path(data),
    )


def _fingerprint(sets: CocoSets) -> str:
    """SHA-256 of file names, ids and objects, in the order of the files; where they lie does not count."""
    digest = hashlib.sha256()
    for images in (sets.train, sets.val):
        for index in range(len(images)):
            digest.update(os.path.basename(images.name(index)).encode("utf-8", "surrogateescape") + b"\0")
        for values in (images.image_ids, images.num_objects, images.labels, images.iscrowd, images.area):
            digest.update(values.tobytes())
    return digest.hexdigest()
