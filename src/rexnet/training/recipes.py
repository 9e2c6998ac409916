"""Recipes: functions that return a complete configuration, to use as it is or with a few changes.

Accuracies that were not measured with this code are marked as untested.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset, with_unlabelled
from rexnet.data.preprocess import Preprocess
from rexnet.errors import OptionError
from rexnet.models.config import read_config
from rexnet.models.published import PUBLISHED
from rexnet.processes import process_count, without_logs
from rexnet.references import SAVED, find_network, resolve
from rexnet.training.budget import FINETUNE_LR, SCRATCH_LR, Budget, batch_size_for, follow_budget
from rexnet.training.config import (
    InputConfig,
    LoopConfig,
    NetworkConfig,
    OptimConfig,
    RecipeName,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from rexnet.training.initial_weights import AUTO, choose_weights, read_checked
from rexnet.training.resume import settings_to_resume


def imagenet() -> TrainConfig:
    """The paper's ImageNet training of rexnet_100, 400 epochs at a total batch of 512.

    Command: torchrun --nproc-per-node 4 -m rexnet train /imagenet --recipe imagenet
    Hardware: 4 GPUs, about 3 days on V100s (estimate). Expect 77.9 % top-1 (published; untested here). For widths above
    1.0 the author recommends --drop-path-rate 0.2. Source: paper section 5.1 and clovaai/rexnet README.md@14d1a17;
    warm-up, smoothing and no weight decay on norms and biases are timm's defaults, used to train the published models.
    """
    return TrainConfig(
        recipe="imagenet",
        augment=AugmentConfig(
            auto_augment="rand-m9-mstd0.5", random_erasing=0.2, erasing_mode="pixel", label_smoothing=0.1
        ),
        schedule=ScheduleConfig(epochs=400, warmup_epochs=5.0),
        optim=OptimConfig(optimizer="sgd", lr=0.5, lr_batch=512, momentum=0.9, weight_decay=1e-5),
        network=NetworkConfig(drop_rate=0.2),
        run=RunConfig(batch_size=128),
    )


def scratch() -> TrainConfig:
    """Training on photos without published weights, at 160 pixels: settings for more than 10,000 steps; `follow_budget`
    adapts them to fewer.

    Command: rexnet train PATH/TO/FOLDER --weights none Hardware: one GPU, or minutes to hours on a CPU. Expect, for few
    steps, the rows of results/recipes_cpu.jsonl, which include plain training loops; untested for many. Our choice.
    """
    return replace(
        imagenet(),
        recipe="scratch",
        input=InputConfig(image_size=160),
        augment=AugmentConfig(
            crop_scale=(0.25, 1.0), auto_augment="rand-m7-mstd0.5", random_erasing=0.1, label_smoothing=0.1
        ),
        schedule=ScheduleConfig(epochs=100, warmup_epochs=2.0),
        optim=OptimConfig(lr=0.1, lr_batch=64, weight_decay=1e-4, clip_grad=5.0, ema_decay=0.999),
        network=NetworkConfig(zero_init_last=True),
        run=RunConfig(batch_size=32),
    )


def finetune() -> TrainConfig:
    """Fine-tuning of published weights on a custom dataset, at the size and crop of the weights.

    Command: rexnet train PATH/TO/FOLDER --weights rexnet_100.nav_in1k; the paper's four sets are torchvision/food101,
    torchvision/stanford_cars, torchvision/fgvc_aircraft and torchvision/flowers102. Hardware: one GPU, minutes for a
    few thousand images (estimate). Expect about the values of the paper's Table 8 for rexnet_100: Food-101 88.4,
    Stanford Cars 91.5, FGVC Aircraft 89.5, Flowers-102 97.8 % (published; untested here). Source: the paper states only
    the datasets and that its own ImageNet weights are fine-tuned. Splits as in the literature (arXiv 1805.08974, table
    1): train and test, with the validation images added to the training images. Our choice: 224 pixels, the weights'
    crop and 30 epochs, for which `within_budget` has the settings, chosen with weights of CIFAR-10
    (results/finetune_cpu.jsonl) and the rate with those of ImageNet (results/finetune_rates_cpu.jsonl). For more
    epochs and more than 10,000 steps, untested: SGD with Nesterov momentum, learning rate 0.01 at a batch of 32
    with a cosine, weight decay 1e-4, smoothing 0.1, weight averaging, crops of at least 0.35 of the area and a weak
    RandAugment. --bn auto, no frozen layers, and the same learning rate for all layers.
    """
    return replace(
        imagenet(),
        recipe="finetune",
        augment=AugmentConfig(crop_scale=(0.35, 1.0), auto_augment="rand-m5-mstd0.5", label_smoothing=0.1),
        schedule=ScheduleConfig(epochs=30, warmup_epochs=1.0),
        optim=OptimConfig(lr=0.01, lr_batch=32, weight_decay=1e-4, clip_grad=5.0, ema_decay=0.999),
        run=RunConfig(batch_size=32),
    )


def small_image() -> TrainConfig:
    """Training on images of 32 to 64 pixels, such as CIFAR-10: stem stride 1, padded crops, flips.

    Command: rexnet train torchvision/cifar10 --max-minutes 40
    Hardware: two CPU cores. Expect 87 % on CIFAR-10 (JPEG files): one run of 11 epochs (results/classification.jsonl).
    """
    return replace(
        imagenet(),
        recipe="small-image",
        network=NetworkConfig(stem_stride=1, drop_rate=0.0),
        input=InputConfig(image_size=32, crop_ratio=1.0),
        augment=AugmentConfig(crop_padding_px=4, label_smoothing=0.1),
        schedule=ScheduleConfig(epochs=30, warmup_epochs=1.0),
        optim=OptimConfig(lr=0.1, lr_batch=64, weight_decay=5e-4, clip_grad=5.0, ema_decay=0.999),
        run=RunConfig(batch_size=64),
    )


def digits() -> TrainConfig:
    """Training on scikit-learn's handwritten digits, 8 x 8 pixels, without a download: small_image at 16 pixels, no
    flips.

    Command: rexnet train digits
    Hardware: under 3 minutes on one busy CPU core. Expect 98 % or more on the 359 validation digits: with seed 0, 98.9
    % in the best epoch, chosen on the same digits, and 98.3 % in the last.
    """
    base = small_image()
    return replace(
        base,
        network=replace(base.network, model="rexnet_050"),
        schedule=replace(base.schedule, epochs=8),
        # A second thread gains nothing for networks this small, and costs a lot on a busy machine.
        run=RunConfig(batch_size=32, threads=1),
        input=InputConfig(image_size=16, crop_ratio=1.0),
        augment=replace(base.augment, crop_padding_px=2, horizontal_flip=0.0),
    )


RECIPES: dict[RecipeName, Callable[[], TrainConfig]] = {
    "imagenet": imagenet,
    "scratch": scratch,
    "finetune": finetune,
    "small-image": small_image,
}


DECIDING = (
    *("data", "recipe", "model", "width", "weights", "freeze", "resume", "output"),
    *("shots", "val_fraction", "seed", "missing_class", "accumulate"),
    *("image_size", "stem_stride", "weights_cache_only", "teacher", "unlabelled"),
)
"""Options that determine the defaults of the others."""


def choose_recipe(data: str, weights: str | None) -> RecipeName:
    """Return the recipe that "auto" selects. Raise ValueError for data that does not exist."""
    if weights is not None:
        return "finetune"
    return "small-image" if open_dataset(data).small_images else "scratch"


def count_images(asked: TrainConfig) -> int | None:
    """Return the number of training images of `asked`; None if they are not local files. Raise ValueError for data that
    cannot be used for training."""
    if not os.path.isdir(asked.data):
        return None
    options = {name: getattr(asked.input, name) for name in ("val_fraction", "shots", "missing_class")}
    with without_logs():  # training lists the data again, and warns about them then
        sets = open_dataset(asked.data).for_training(seed=asked.run.seed, **options)
        return len(with_unlabelled(sets, asked.teacher.unlabelled))


def starting_point(asked: TrainConfig, *, epochs: int | None = None, batch_size: int | None = None) -> TrainConfig:
    """Return the configuration that the given options override: the configuration of the run to resume, or of the
    recipe.

    `asked` holds the given options of DECIDING and defaults otherwise; the budget also depends on `epochs` and
    `batch_size`, if given.
    """
    if asked.run.resume and (saved := settings_to_resume(asked)):
        if asked.network.weights == saved.network.weights and (sha256 := saved.initial_weights.get("sha256")):
            read_checked(saved.network, sha256)
        return saved
    if (asked.network.model, asked.network.width) != (NetworkConfig.model, NetworkConfig.width):
        asked.network.check()  # before the data is examined
    if asked.network.weights == AUTO:
        asked = choose_weights(asked)
    recipe = choose_recipe(asked.data, asked.network.weights) if asked.recipe == "auto" else asked.recipe
    if recipe == "finetune" and asked.network.weights is None:
        reason = asked.initial_weights.get("reason")
        found = f" (auto found none: {reason})" if reason else ""
        raise OptionError(
            f"--recipe finetune needs initial weights{found}; give them with --weights, or use --recipe scratch"
        )
    start = digits() if (recipe, asked.data) == ("small-image", "digits") else RECIPES[recipe]()
    network = replace(start.network, weights=asked.network.weights)
    start = replace(start, network=network, initial_weights=asked.initial_weights)
    if recipe == "finetune" or (recipe in ("scratch", "small-image") and asked.network.weights is None):
        start = within_budget(start, asked, epochs=epochs, batch_size=batch_size)
    if asked.transfer.freeze == "all":
        kept = AugmentConfig(
            horizontal_flip=start.augment.horizontal_flip, label_smoothing=start.augment.label_smoothing
        )
        start = replace(start, augment=kept)
    if asked.network.model != NetworkConfig.model:
        start = _with_the_stem_of(start, asked.network.model)
    return _as_the_weights_were_made(start, asked.network.weights) if asked.network.weights else start


def within_budget(
    start: TrainConfig, asked: TrainConfig, *, epochs: int | None = None, batch_size: int | None = None
) -> TrainConfig:
    """Return `start` with the batch size and the settings for the budget of `asked`; see `starting_point`."""
    images, epochs = count_images(asked), epochs or start.schedule.epochs
    if batch_size is None:
        usual = start.run.batch_size
        # Below 16 images --bn auto would keep the statistics of the weights.
        least = 16 if start.recipe == "finetune" else 8
        batch_size = usual if images is None else batch_size_for(images, epochs=epochs, usual=usual, least=least)
        start = replace(start, run=replace(start.run, batch_size=batch_size))
    total_batch = batch_size * asked.run.accumulate * process_count()
    budget = Budget(images=images, epochs=epochs, batch_size=total_batch)
    changes_weights = start.recipe == "finetune" and asked.transfer.freeze != "all"
    lr = FINETUNE_LR if changes_weights else SCRATCH_LR
    return replace(follow_budget(start, budget, lr=lr), budget=budget.facts())


def check_length(given: dict[str, Any]) -> None:
    """Raise OptionError if both --epochs and --max-minutes are given."""
    if {"epochs", "max_minutes"} <= given.keys():
        raise OptionError(
            f"--max-minutes is {given['max_minutes']:g} and --epochs {given['epochs']}, but each determines the length "
            "of the run; allowed: one of them"
        )


def rate_as_typed(given: dict[str, Any], asked: LoopConfig) -> dict[str, Any]:
    """Return options to add to the `given` ones, so that a given --lr is used unchanged, unless --lr-batch is also
    given. A resumed run keeps its learning rate."""
    if "lr" not in given or "lr_batch" in given:
        return {}
    return {"lr_batch": 0} if settings_to_resume(asked) is None else {}


def _with_the_stem_of(start: TrainConfig, model: str) -> TrainConfig:
    """Return `start` with the stem stride of the network, if it comes from a file."""
    found = find_network(model)
    if isinstance(found, str):
        return start
    return replace(start, network=replace(start.network, stem_stride=read_config(str(found)).stem_stride))


def _as_the_weights_were_made(start: TrainConfig, source: str) -> TrainConfig:
    """Return `start` with the image size, crop and interpolation of these weights, and with their network if they are a
    checkpoint."""
    if source in PUBLISHED:
        facts, network = PUBLISHED[source].preprocess, None
    else:
        file = resolve(source, allowed=SAVED, option="--weights").weights

        from rexnet.models.weights import read_weights

        weights = read_weights(file)
        facts, network = weights.preprocess, weights.config
    if network is not None:
        # A network without a name, such as a searched one, is identified by the file itself.
        model = network["name"] if weights.variant else file
        same_network = replace(start.network, model=model, stem_stride=network["stem_stride"])
        start = replace(start, network=same_network)
    if facts is None:
        return start
    preprocess = Preprocess.from_dict(facts)
    return replace(
        start,
        input=InputConfig(
            image_size=preprocess.image_size_px,
            crop_ratio=preprocess.crop_ratio,
            interpolation=preprocess.interpolation,
        ),
    )
