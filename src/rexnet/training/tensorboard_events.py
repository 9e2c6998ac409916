"""The rows of metrics as TensorBoard events, beside metrics.jsonl, which holds the same."""

import os
from typing import Any


def require_tensorboard() -> Any:
    """TensorBoard's writer class. ValueError, one sentence with the remedy, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs the package tensorboard: pip install 'rexnet[tensorboard]'") from error
    return SummaryWriter


class EventLog:
    """Writes into `folder`, for a run that has `done_epochs` epochs; what TensorBoard read of later ones it forgets,
    as metrics.jsonl does: a kill can fall between a row and its checkpoint."""

    def __init__(self, folder: str | os.PathLike[str], *, done_epochs: int):
        self._writer = require_tensorboard()(os.fspath(folder), purge_step=done_epochs + 1)

    def add(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl: train_loss becomes train/loss, and so on. On the disk when this returns."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
