"""Train digits and drawn shapes for three epochs with the command line and record the hash of the final weights.

Two commits that give the same hashes on the same machine train alike, bit for bit; another processor or another torch
may give others. Compare rows of one machine only:

    python benchmarks/weight_hashes.py
"""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import records

RUNS = {
    "digits": "train digits --epochs 3 --threads 1 --device cpu --output RUN",
    "shapes": (
        "detect train shapes --detector ssdlite --model rexnet_050 --min-size 128 --epochs 3 --batch-size 8"
        " --threads 1 --device cpu --output RUN"
    ),
}
PREPARATION = {"shapes": "detect demo shapes --images 40 --size-px 128"}


def hash_of_weights(path: Path) -> str:
    """SHA-256 of names and bytes of a checkpoint's weights, in the order of the names."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_rexnet(command: str, folder: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "rexnet", *shlex.split(command)], cwd=folder, env=environment, check=True)


def main() -> None:
    records.start()
    row: dict[str, Any] = {}
    for name, command in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            if name in PREPARATION:
                run_rexnet(PREPARATION[name], folder)
            run_rexnet(command, folder)
            row[name] = {"command": f"rexnet {command}", "sha256": hash_of_weights(Path(folder, "RUN", "last.pt"))}
    print(*(f"{name}: {found['sha256']}" for name, found in row.items()), sep="\n")
    records.append("weight_hashes", {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
