"""Resumes a copy of a run, kills it, resumes it again, and compares its end with the original's, bit for bit.

Make the copy while the original is training, at any moment (`cp -r runs/cifar10 runs/copy`): what a kill leaves.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

import records
from rexnet.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/resume.py runs/cifar10 runs/copy --title "CIFAR-10 (JPEG)" --processes 2`"""

    original: Annotated[Path, tyro.conf.Positional]
    """Folder of the run that nothing interrupted."""
    copy: Annotated[Path, tyro.conf.Positional]
    """Copy of that folder from before the run was over."""
    title: str
    kill_after_s: float = 120.0
    """The copy is resumed, and after so many seconds killed with SIGKILL."""
    processes: int = 1
    """Of the original run."""


def resume(options: Options) -> subprocess.Popen[bytes]:
    start = ["torchrun", "--nproc-per-node", str(options.processes), "-m", "rexnet"]
    command = [*(start if options.processes > 1 else ["rexnet"]), "train", "--resume", str(options.copy)]
    return subprocess.Popen(command, start_new_session=True)


def same(original: Path, copy: Path) -> tuple[bool, int]:
    """Whether every tensor of the two last checkpoints is equal in every bit, and how many there are."""
    ours, theirs = (checkpoint.read(path / "last.pt")["state_dict"] for path in (copy, original))
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return equal, len(ours)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    epochs_before = len((options.copy / "metrics.jsonl").read_text().splitlines())
    running = resume(options)
    time.sleep(options.kill_after_s)
    killed = running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    if not killed:
        raise SystemExit(f"the run was over before it could be killed after {options.kill_after_s} s")
    if resume(options).wait():
        raise SystemExit("the killed run could not be resumed")
    equal, tensors = same(options.original, options.copy)
    row = {
        "title": options.title,
        "epochs_when_copied": epochs_before,
        "epochs": len((options.copy / "metrics.jsonl").read_text().splitlines()),
        "killed_after_s": options.kill_after_s,
        "tensors": tensors,
        "equal_bit_for_bit": equal,
    }
    print(f"{tensors} tensors, equal bit for bit: {equal}")
    records.append("resume", {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
