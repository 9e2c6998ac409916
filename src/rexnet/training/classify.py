"""Training of classifiers with the shared training loop."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from rexnet.data.datasets import ImageSets, open_dataset, open_images, with_unlabelled
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import EvalBatches, TrainBatches
from rexnet.data.transforms import TrainTransform, batch_mixer
from rexnet.errors import OptionError
from rexnet.models.blocks import zero_init_last
from rexnet.models.cost import measure_cost
from rexnet.models.factory import create_model
from rexnet.models.rexnet import RexNet
from rexnet.models.weights import load_weights, read_weights
from rexnet.references import find_network
from rexnet.text import plural, printable, quantity
from rexnet.training import checkpoint
from rexnet.training.classification_loss import classification_loss, label_loss, loss_weights
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.distillation import Guidance, distillation_loss, note_teachers, view_preprocess
from rexnet.training.distributed import World
from rexnet.training.evaluation import SizedBatches, evaluate
from rexnet.training.freezing import prepare
from rexnet.training.frozen_features import FeatureEngine, check_frozen_backbone, freeze_backbone, head_task
from rexnet.training.initial_weights import AUTO, choose_weights, describe_choice, keep_weights, read_checked
from rexnet.training.loop import Task, choose_autocast, fit
from rexnet.training.metrics import metrics_of
from rexnet.training.progress import smaller_size
from rexnet.training.resume import extend, resumes, settings_to_resume
from rexnet.training.run_folder import RunFolder, local_path
from rexnet.training.session import Parts, fit_batches, loader_options, run_session
from rexnet.training.teachers import Teacher, prepare_guides
from rexnet.training.time_budget import TimeLimit

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    teachers: Sequence[Teacher] = (),
    *,
    limit: TimeLimit[TrainConfig] | None = None,
    native: FeatureEngine | None = None,
) -> dict[str, Any]:
    """Train with the settings of `config` and write all results to the run folder; return the content of summary.json.

    `teachers`: the networks named in `config.teacher`, opened by `rexnet.deploy.teachers.open_teachers`. `native`
    computes the features of a frozen network (`freeze_backbone`), and nothing else. Raise ValueError for settings, data
    or weights that do not match.
    """
    config.network.check()
    config = _settle_weights(extend(note_teachers(config, teachers)))
    if limit is not None:
        make = limit.with_epochs
        limit = limit._replace(with_epochs=lambda epochs: keep_weights(make(epochs), chosen=config))
    prepare = partial(_prepare, teachers=teachers, native=native)
    return run_session(config, prepare, goal=config.goal, command="rexnet train", limit=limit)


def _settle_weights(config: TrainConfig) -> TrainConfig:
    """Return `config` with the initial weights of the run to resume or, for a new run, with newly chosen ones."""
    if (saved := settings_to_resume(config)) is not None:
        if config.network.weights == AUTO:
            config = keep_weights(config, chosen=saved)
        config = replace(config, initial_weights=saved.initial_weights)
    return config if resumes(config) else choose_weights(config)


def _prepare(config: TrainConfig, world: World, *, teachers: Sequence[Teacher], native: FeatureEngine | None) -> Parts:
    """Load images and weights. Raise ValueError if they do not match each other or the settings."""
    sets = _load_sets(config, world)
    training = with_unlabelled(sets, config.teacher.unlabelled)
    batches = _make_batches(training, sets.val, config=config, world=world, teachers=teachers)
    torch.manual_seed(config.run.seed)
    resumed = resumes(config)
    network = replace(config.network, weights=None) if resumed else config.network
    reads_weights, choice = network.weights is not None, describe_choice(config, resumed=resumed)
    if reads_weights and world.is_main:
        logger.info("%s", choice)
    model = build_model(network, sets.classes, sha256=config.initial_weights.get("sha256"))
    pretrained = config.network.weights is not None
    frozen = prepare(model, config.transfer, pretrained=pretrained, images_per_batch=batches[0].images_per_batch)
    special = None
    if teachers:
        taught = partial(_fit_taught, model, sets, batches, name_image=training.name)
        special = partial(taught, teachers=teachers, config=config, world=world)
    if config.transfer.freeze == "all":
        check_frozen_backbone(config)
        special = partial(_fit_head, model, sets, batches[0], config=config, world=world, native=native)
    if world.is_main:
        _warn_of_few_pixels(model, config.input.image_size)
        _warn_of_idle_balance(sets, config.input.balance)
    return Parts(
        name=model.name,
        facts=replace(sets.facts(), path=local_path(config.data)),
        model=model,
        batches=batches,
        task=partial(classification_task, sets, config=config, world=world),
        fit=special,
        opening=() if reads_weights else (choice,),
        notes=(
            f"{model.name}: {measure_cost(model, config.input.image_size)}{_describe_stem(config.network)}",
            *_describe_unlabelled(config.teacher.unlabelled, len(training) - len(sets.train)),
            _describe_recipe(config),
            f"{frozen}",
        ),
        samples=sets.val,
    )


def _describe_unlabelled(unlabelled: str | None, used: int) -> tuple[str, ...]:
    if unlabelled is None:
        return ()
    known = len(open_images(unlabelled)) - used
    return (f"{printable(unlabelled)}: {used} unlabelled {plural(used, 'image')}; {known} more are also in DATA",)


def _describe_recipe(config: TrainConfig) -> str:
    steps = config.budget.get("steps")
    few = f" for {quantity(steps, 'step')}" if steps else ""
    return f"recipe {config.recipe}{few}: {config.optim.optimizer}"


def _describe_stem(network: NetworkConfig) -> str:
    origin = " as in the weights" if network.weights is not None else ""
    return f", stem stride 1{origin}" if network.stem_stride == 1 else ""


def _warn_of_few_pixels(model: RexNet, image_size_px: int) -> None:
    """Warn if the image is smaller than the stride of the last feature map, whose input is then mostly padding."""
    stride = model.config.output_stride
    if image_size_px < stride:
        text = "--image-size %d is below the stride of %s, %d, so its last layers see mostly padding; use %s"
        better = f"{2 * stride} or more" + (", or --stem-stride 1" if model.config.stem_stride > 1 else "")
        logger.warning(text, image_size_px, model.name, stride, better)


def _make_batches(
    training: ImageSet, validation: ImageSet, *, config: TrainConfig, world: World, teachers: Sequence[Teacher] = ()
) -> tuple[TrainBatches, EvalBatches]:
    """Return the training and validation batches of this process. Raise ValueError for impossible augmentation."""
    transform = TrainTransform(view_preprocess(config, teachers), config.augment)
    loading = _loader_options(config, world)
    train_batches = TrainBatches(
        training,
        transform,
        seed=config.run.seed,
        device=world.device,
        mixer=batch_mixer(config.augment, len(validation.classes)),
        balanced=config.input.balance == "sampler",
        **loading,
    )
    return train_batches, EvalBatches(validation, config.input.preprocess(), **loading)


def _fit_taught(
    model: RexNet,
    sets: ImageSets,
    batches: tuple[TrainBatches, EvalBatches],
    run: RunFolder,
    *,
    name_image: Callable[[int], str],
    teachers: Sequence[Teacher],
    config: TrainConfig,
    world: World,
) -> tuple[dict[str, Any], list[str]]:
    """Train in `run` with teachers; see `Parts.fit`. `name_image` also names the unlabelled images."""
    read = partial(EvalBatches, **_loader_options(config, world))
    guides = prepare_guides(teachers, sets, read_batches=read, config=config, run=run, world=world)
    task = classification_task(sets, batches[1], config, world=world, guidance=Guidance.of(guides, config))
    task = task._replace(name_image=name_image)
    return fit_batches(model, batches, task, config=config, run=run, world=world)


def _fit_head(
    model: RexNet,
    sets: ImageSets,
    order: TrainBatches,
    run: RunFolder,
    *,
    config: TrainConfig,
    world: World,
    native: FeatureEngine | None,
) -> tuple[dict[str, Any], list[str]]:
    """Train only the head in `run`, on features that are computed once; see `Parts.fit`."""
    in_order = partial(EvalBatches, preprocess=config.input.preprocess(), **_loader_options(config, world))
    frozen = freeze_backbone(model, sets, order, in_order=in_order, config=config, run=run, world=world, native=native)
    task = head_task(classification_task(sets, frozen.val, config, world=world), model)
    best = fit(frozen.head, frozen.train, task, config=config, run=run, world=world)
    return best, sorted(printable(name) for name in frozen.skipped)


def _loader_options(config: TrainConfig, world: World) -> dict[str, Any]:
    return loader_options(
        world, batch_size=config.run.batch_size, workers=config.run.workers, bad_image=config.input.bad_image
    )


def classification_task(
    sets: ImageSets, val_batches: SizedBatches, config: TrainConfig, *, world: World, guidance: Guidance | None = None
) -> Task:
    """Return the task: cross-entropy on batches of `sets.train`, with `guidance` also distillation from teachers, and
    metrics on `val_batches`."""
    dtype = choose_autocast(config.run.amp, world.device)

    def evaluate_validation(network: nn.Module) -> dict[str, float]:
        return evaluate(network, val_batches, classes=sets.classes, world=world, autocast_dtype=dtype).metrics()

    settings = {"label_smoothing": config.augment.label_smoothing, "weights": loss_weights(sets, config, world)}
    loss = partial(classification_loss, device=world.device, **settings)
    if guidance is not None:
        weight, labels = config.teacher.distillation_weight, partial(label_loss, **settings)
        loss = partial(distillation_loss, guidance=guidance, weight=weight, label_loss=labels, device=world.device)
    metrics = [metric.name for metric in metrics_of("classification", num_classes=len(sets.classes))]
    return Task(
        loss=loss,
        evaluate=evaluate_validation,
        pack=partial(
            checkpoint.pack, classes=sets.classes, preprocess=config.input.preprocess(), split=sets.random_split
        ),
        name_image=sets.train.name,
        goal=config.goal,
        shorter=shorter_options(config),
        logged=None if len(metrics) == len(metrics_of("classification")) else tuple(metrics),
    )


def shorter_options(config: TrainConfig) -> tuple[str, ...]:
    """Return the options that would shorten a classifier's training."""
    freeze = ("--freeze all",) if config.network.weights is not None and config.transfer.freeze != "all" else ()
    size_px = smaller_size(config.input.image_size)
    return (*freeze, *((f"--image-size {size_px}",) if size_px else ()))


def _warn_of_idle_balance(sets: ImageSets, balance: str) -> None:
    counts = np.bincount(sets.train.targets, minlength=len(sets.classes))
    if balance != "none" and len(set(counts.tolist())) == 1:
        logger.warning("--balance %s has no effect: each class has %d training images", balance, counts[0])


def build_model(config: NetworkConfig, classes: tuple[str, ...], *, sha256: str | None = None) -> RexNet:
    """Return the network for these classes, with `config.weights` loaded from a file that must have this SHA-256.

    The weights' own classifier is kept if the class names are the same, otherwise a new one is initialised.
    """
    model = create_model(
        str(find_network(config.model)),
        width=config.width,
        stem_stride=config.stem_stride,
        num_classes=len(classes),
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
    )
    if config.zero_init_last:
        zero_init_last(model)
    if config.weights is not None:
        weights = read_weights(read_checked(config, sha256))
        if weights.config and weights.config["stem_stride"] != config.stem_stride:
            raise OptionError(
                f"--stem-stride is {config.stem_stride}, but {config.weights} was trained with "
                f"{weights.config['stem_stride']}; use that"
            )
        load_weights(model, weights, classifier="strict" if weights.classes == classes else "reset")
    return model


def _load_sets(config: TrainConfig, world: World) -> ImageSets:
    given = config.input
    return world.in_turns(
        lambda: open_dataset(config.data).for_training(
            val_fraction=given.val_fraction, seed=config.run.seed, shots=given.shots, missing_class=given.missing_class
        )
    )
