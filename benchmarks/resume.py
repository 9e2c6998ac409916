"""Resume a copy of a run's folder and compare its end with the original's, bit for bit.

Make the copy while the original trains, at any moment (`cp -r runs/cifar10 runs/copy`): it holds what a kill at that
moment would leave. Resume it as the original was started, `torchrun` included, then compare:

    torchrun --nproc-per-node 2 -m rexnet train --resume runs/copy
    python benchmarks/resume.py runs/cifar10 runs/copy --title CIFAR-10 --epochs-when-copied 5
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import records
from rexnet.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """The two runs."""

    original: Annotated[Path, tyro.conf.Positional]
    """Folder of the run that nothing interrupted."""
    copy: Annotated[Path, tyro.conf.Positional]
    """Copy of that folder from before the run was over, resumed since."""
    title: str
    epochs_when_copied: int
    """Rows of the copy's metrics.jsonl when it was made."""


def tensors(content: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Return all tensors in nested dictionaries and lists, by their path."""
    if isinstance(content, torch.Tensor):
        return {path: content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {name: tensor for key, value in items for name, tensor in tensors(value, f"{path}/{key}").items()}


def same(original: Path, copy: Path) -> tuple[bool, int]:
    """Return whether all tensors are equal bit for bit, and how many there are."""
    ours, theirs = (tensors(checkpoint.read(path / "last.pt")) for path in (copy, original))
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return equal, len(ours)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    equal, count = same(options.original, options.copy)
    row = {
        "title": options.title,
        "epochs_when_copied": options.epochs_when_copied,
        "epochs": len((options.copy / "metrics.jsonl").read_text().splitlines()),
        "tensors": count,
        "equal_bit_for_bit": equal,
    }
    print(f"{count} tensors, equal bit for bit: {equal}")
    records.append("resume", {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
