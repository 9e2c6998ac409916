"""Training of detectors with the shared training loop."""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rexnet.data.boxes.coco import CocoImages, CocoSets
from rexnet.data.boxes.loaders import DetectionBatch, EvalDetectionBatches, TrainDetectionBatches
from rexnet.data.boxes.transforms import DetectionTransform
from rexnet.data.datasets import open_dataset
from rexnet.data.facts import DataFacts
from rexnet.detection.backbones import backbone_config
from rexnet.detection.checkpoints import is_detector_file, load_detector_weights, pack
from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.detectors import SIZES_PX, create_detector
from rexnet.detection.evaluation import check_ground_truth, evaluate_detector
from rexnet.detection.norms import prepare_norms
from rexnet.errors import OptionError
from rexnet.files import real_path
from rexnet.models.blocks import zero_init_last
from rexnet.models.cost import measure_cost
from rexnet.references import SAVED, resolve
from rexnet.text import printable
from rexnet.training.distributed import World
from rexnet.training.loop import Task, choose_autocast
from rexnet.training.progress import smaller_size
from rexnet.training.resume import extend, resumes
from rexnet.training.run_folder import local_path
from rexnet.training.session import Parts, loader_options, run_session
from rexnet.training.time_budget import TimeLimit


def train(config: DetectTrainConfig, *, limit: TimeLimit[DetectTrainConfig] | None = None) -> dict[str, Any]:
    """Train a detector with the settings of `config`, write all results to the run folder, and return the content of
    summary.json.

    Raise ValueError for settings, data or weights that contradict each other.
    """
    config.check()
    try:
        backbone_config(config.network.model)  # before the data is read
    except ValueError as error:
        raise OptionError(f"--model: {error}") from error
    config = extend(config)
    return run_session(config, _prepare, goal=config.goal, command="rexnet detect train", limit=limit)


def _prepare(config: DetectTrainConfig, world: World) -> Parts:
    """Load images and weights. Raise ValueError if they contradict each other or the settings."""
    sets = open_dataset(config.data).for_detection(bad_image=config.bad_image)
    check_ground_truth(sets.val.to_coco())
    if config.goal == "mask_ap" and not sets.val.has_masks:
        raise ValueError(
            "the validation images have boxes but no masks, which Mask R-CNN needs to choose its best epoch; "
            "--detector faster_rcnn and ssdlite do not need masks"
        )
    torch.manual_seed(config.run.seed)
    model = build_model(config.network, sets.train.classes, load=not resumes(config))
    pretrained = config.network.weights is not None
    batches = _make_batches(sets, model, config, world)
    norms = prepare_norms(
        model, bn=config.network.bn, pretrained=pretrained, images_per_batch=batches[0].images_per_batch
    )
    return Parts(
        name=config.subject[0],
        facts=data_facts(sets, config.data),
        model=model,
        batches=batches,
        task=partial(detection_task, sets.train, sets.val, config=config, world=world),
        notes=(_describe_size(model, config.subject[0]), f"recipe {config.recipe}", f"{norms}"),
        skipped=(*sets.train.skipped, *sets.val.skipped),
    )


def _describe_size(model: nn.Module, name: str) -> str:
    size_px: Any = model.get_submodule("transform").min_size
    backbone = measure_cost(model.get_submodule("backbone"), size_px[0])
    millions = sum(values.numel() for values in model.parameters()) / 1e6
    return f"{name}: {millions:.2f} M parameters; backbone: {backbone}"


def build_model(options: DetectorOptions, classes: tuple[str, ...], *, load: bool = True) -> nn.Module:
    """Return the detector for these classes; if `load`, with `options.weights` loaded."""
    make = partial(
        create_detector, options.detector, backbone=options.model, num_classes=len(classes), **options.overrides()
    )
    weights = options.weights
    if weights is None or not load:
        model = make()
        if options.zero_init_last:
            zero_init_last(model)
        return model
    reference = resolve(weights, allowed=SAVED, option="--weights")
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
    """Return the training and validation batches of this process."""
    transform = DetectionTransform(config.augment)
    # In training, the transform has already resized the images.
    model.get_submodule("transform")._skip_resize = transform.resizes  # pyright: ignore[reportArgumentType]
    shared = loader_options(
        world, batch_size=config.run.batch_size, workers=config.run.workers, bad_image=config.bad_image
    )
    train_batches = TrainDetectionBatches(
        sets.train,
        transform,
        seed=config.run.seed,
        device=world.device,
        masks=config.network.detector == "mask_rcnn",
        **shared,
    )
    return train_batches, EvalDetectionBatches(sets.val, device=world.device, **shared)


def detection_task(
    train: CocoImages, val: CocoImages, val_batches: EvalDetectionBatches, *, config: DetectTrainConfig, world: World
) -> Task:
    """Return the training task: the detector's losses on batches of `train`, and COCO's metrics on the batches of
    `val`."""
    dtype = choose_autocast(config.run.amp, world.device)
    size_px = smaller_size(config.network.min_size or SIZES_PX[config.network.detector][0])

    def evaluate_validation(model: nn.Module) -> dict[str, float]:
        return evaluate_detector(model, val_batches, val, world=world, autocast_dtype=dtype).metrics

    return Task(
        loss=partial(detection_loss, device=world.device, name_image=train.name),
        evaluate=evaluate_validation,
        pack=partial(pack, classes=train.classes, category_ids=train.category_ids.tolist()),
        name_image=train.name,
        goal=config.goal,
        shorter=(f"--min-size {size_px}",) if size_px else (),
        static=lambda model: model.get_submodule("backbone"),
        logged=("box_ap", "box_ap50", "mask_ap", "mask_ap50"),
    )


def detection_loss(
    model: nn.Module, batch: DetectionBatch, *, device: torch.device, name_image: Callable[[int], str]
) -> dict[str, Tensor]:
    """Return the unweighted sum of the detector's losses, as in torchvision, and each loss. If memory runs out, raise
    ValueError naming the image with the most objects."""
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
            f"memory ran out in a step with {sum(objects):,} objects, {max(objects):,} of them in {name}; a smaller "
            "--batch-size, --max-size or --proposals needs less"
        ) from error
    return {"loss": torch.stack([loss.float() for loss in losses.values()]).sum(), **losses}


def data_facts(sets: CocoSets, data: str) -> DataFacts:
    """Return the counts and the fingerprint of a folder in COCO's layout."""
    return DataFacts(
        title=printable(real_path(data).name),
        train_images=len(sets.train),
        val_images=len(sets.val),
        classes=sets.train.classes,
        train_objects=int(sets.train.num_objects.sum()),
        val_objects=int(sets.val.num_objects.sum()),
        train_crowds=int(sets.train.iscrowd.sum()),
        val_crowds=int(sets.val.iscrowd.sum()),
        category_ids=tuple(sets.train.category_ids.tolist()),
        fingerprint=_fingerprint(sets),
        path=local_path(data),
    )


def _fingerprint(sets: CocoSets) -> str:
    """Return the SHA-256 of file names, ids and objects, in the order of the files, independent of the folder's
    path."""
    digest = hashlib.sha256()
    for images in (sets.train, sets.val):
        for index in range(len(images)):
            digest.update(os.path.basename(images.name(index)).encode("utf-8", "surrogateescape") + b"\0")
        for values in (images.image_ids, images.num_annotations, images.labels, images.iscrowd, images.area):
            digest.update(values.tobytes())
    return digest.hexdigest()
