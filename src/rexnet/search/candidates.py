"""Training of one candidate by `fit` on images in memory, and its scores without training."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from rexnet.data.datasets import ImageSets, open_dataset
from rexnet.data.memory_batches import MemoryEvalBatches, MemoryTrainBatches, Pixels, decode
from rexnet.data.splits import draw_shots
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from rexnet.ranks.layer_ranks import measure_layers
from rexnet.search.config import ImageOptions, SearchConfig
from rexnet.training.classify import classification_task
from rexnet.training.distributed import World
from rexnet.training.loop import fit
from rexnet.training.run_folder import RunFolder

Watch = Callable[[int, float], None]
"""Callback watch(epoch, accuracy), called after each epoch, counted from 1; may raise to end the training."""

_EVAL_BATCH_CPU, _EVAL_BATCH = 64, 1000
"""Images per validation step; on a CPU, few enough for their maps to fit into a core's cache."""
_SCORED_IMAGES = 128
_SCORE_TOLERANCE = 1e-4
_LATENCY_SECONDS, _WARM_UP = 0.5, 5


@dataclass(frozen=True, kw_only=True)
class SearchData:
    """Decoded images of a search; processes that receive them share the tensors."""

    sets: ImageSets
    train: Pixels
    val: Pixels

    @classmethod
    def load(cls, data: str, options: ImageOptions, *, seed: int, workers: int = 0) -> "SearchData":
        """Read and decode the images; errors as for `Dataset.for_training` and `decode`."""
        sets = open_dataset(data).for_training(val_fraction=options.val_fraction, seed=seed, shots=options.shots)
        if options.val_shots is not None:
            val = draw_shots(sets.val, options.val_shots, seed)
            sets = replace(sets, val=val, split=f"{sets.split}; {options.val_shots} of each class to validate on")
        train, val = (
            decode(images, options.preprocess, workers=workers, bad_image=options.bad_image)
            for images in (sets.train, sets.val)
        )
        return cls(sets=sets, train=train, val=val)


@dataclass(frozen=True, kw_only=True)
class CandidateTrainer:
    """Trainer of candidates, one after the other, in one process; it also scores untrained ones."""

    config: SearchConfig
    data: SearchData
    world: World

    def build(self, channels: Sequence[int], seed: int) -> RexNet:
        torch.manual_seed(seed)
        return RexNet(self.config.space.config(channels, num_classes=len(self.data.sets.classes)))

    def train(self, channels: Sequence[int], *, seed: int, folder: Path, watch: Watch | None = None) -> list[float]:
        """Train a candidate and return its accuracy on the validation split after each epoch, in percent.

        A killed training run continues from its checkpoint in `folder`.
        """
        model = self.build(channels, seed)
        settings = self.config.train_config(seed)
        preprocess, device = self.config.images.preprocess, self.world.device
        batches = MemoryTrainBatches(
            self.data.train,
            preprocess,
            self.config.images.augment,
            batch_size=settings.run.batch_size,
            seed=seed,
            device=device,
        )
        eval_batch = _EVAL_BATCH_CPU if device.type == "cpu" else _EVAL_BATCH
        val_batches = MemoryEvalBatches(self.data.val, preprocess, batch_size=eval_batch, device=device)
        task = classification_task(self.data.sets, val_batches, settings, world=self.world)
        run = RunFolder(folder)
        run.lock()
        try:

            def evaluate(network: nn.Module) -> dict[str, float]:
                metrics = task.evaluate(fold(network))
                if watch:
                    watch(len(run.rows()) + 1, metrics["top1"])
                return metrics

            fit(model, batches, task._replace(evaluate=evaluate), config=settings, run=run, world=self.world)
            return [row["val_top1"] for row in run.rows()]
        finally:
            run.close()

    def measure_initial_ranks(self, channels: Sequence[int], *, seed: int) -> dict[str, float]:
        """Score the untrained network on training images, in about a second: effective rank over channels, for the last
        features and as the mean over all layers, and the nuclear norm of the last features."""
        model = self.build(channels, seed).to(self.world.device)
        images = self._images(_SCORED_IMAGES)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # use these images' statistics: with the initial ones the signal fades
        with torch.no_grad():
            model.train()(images)
        layers = measure_layers(model, [images], tolerance=_SCORE_TOLERANCE)[:-1]
        last = layers[-1]
        return {
            "effective_rank": sum(layer.effective_rank_ratio for layer in layers) / len(layers),
            "effective_rank_of_features": last.effective_rank_ratio,
            "nuclear_norm_of_features": last.nuclear_norm,
        }

    def measure_latency_ms(self, channels: Sequence[int]) -> float:
        """Return the median time for one image of --cost-size, on the device of the search."""
        model = self.build(channels, 0).to(self.world.device).eval()
        size = self.config.space.cost_size
        image = torch.zeros(1, 3, size, size, device=self.world.device)
        seconds: list[float] = []
        with torch.inference_mode():
            while sum(seconds) < _LATENCY_SECONDS or len(seconds) < 2 * _WARM_UP:
                began = time.perf_counter()
                float(model(image).sum())  # synchronises with an accelerator
                seconds.append(time.perf_counter() - began)
        return 1000.0 * median(seconds[_WARM_UP:])

    def _images(self, count: int) -> Tensor:
        part = Pixels(*(values[:: max(1, len(values) // count)][:count] for values in self.data.train))
        batches = MemoryEvalBatches(part, self.config.images.preprocess, batch_size=count, device=self.world.device)
        return next(iter(batches)).images
