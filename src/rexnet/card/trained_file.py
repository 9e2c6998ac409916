"""What is known of a trained model: its checkpoint, and the run folder that it lies in. Only read."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexnet.errors import WeightsError
from rexnet.references import resolve
from rexnet.training import checkpoint
from rexnet.training.run_folder import RunFolder
from rexnet.training.run_record import RunRecord, record_of

logger = logging.getLogger(__name__)

# Counted or averaged in training, not learned.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class TrainedFile:
    """A checkpoint of a classifier or a detector."""

    path: Path
    content: dict[str, Any]
    training: RunRecord | None
    """None where the file lies in no run folder."""

    @property
    def is_detector(self) -> bool:
        return self.content.get("task") == checkpoint.DETECTION

    @property
    def classes(self) -> list[str]:
        return self.content["classes"]

    @property
    def network(self) -> str:
        """Of a detector, the one below it."""
        return self._config if isinstance(self._config, str) else self._config["name"]

    @property
    def is_rexnet(self) -> bool:
        """And not a detector on a network of timm's."""
        return not isinstance(self._config, str)

    @property
    def _config(self) -> dict[str, Any] | str:
        return self.content["detector"]["backbone"] if self.is_detector else self.content["model"]

    @property
    def is_best(self) -> bool:
        """Of the epoch that its own figures chose."""
        return self.path.name == RunFolder(self.path.parent).best.name

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the epoch that the weights are of, as measured in training."""
        return self.content.get("metrics") or {}

    @property
    def parameters(self) -> int:
        state = self.content["state_dict"]
        return sum(values.numel() for name, values in state.items() if not name.endswith(_STATISTICS))


def read_trained(run: str) -> TrainedFile:
    """From a run folder, its best checkpoint, or from a checkpoint, with what is known of its run.

    ValueError, one sentence, for what is neither, and for a file that cannot be used.
    """
    file = resolve(run, allowed=("run", "weights")).file
    content = checkpoint.read(file)
    if content.get("task") is None:
        checkpoint.unpack(content, source=str(file))  # which refuses what contradicts itself
    elif content["task"] != checkpoint.DETECTION:
        raise WeightsError(f"{str(file)!r} is a checkpoint for {content['task']!r}; allowed: classifiers and detectors")
    return TrainedFile(path=file, content=content, training=record_of(file))
