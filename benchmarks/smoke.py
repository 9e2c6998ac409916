"""Run the short demo under the interpreter at hand and record the versions with which it worked.

make smoke PYTHON=python3.13 VENV=.venv-3.13
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import records

COMMANDS = (
    "train digits --epochs 2 --threads 1 --device cpu --output run",
    "validate run/best.pt digits --output validated.json",
    "predict run/best.pt run/samples --csv --output predicted.csv",
    "export run/best.pt --output digits.onnx",
    "predict digits.onnx run/samples --csv --output onnx.csv",
    "detect demo shapes --images 8 --size-px 64",
    "detect train shapes --detector ssdlite --model rexnet_010 --min-size 64 --epochs 1 --batch-size 4",
)


def main() -> None:
    records.start()
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            subprocess.run([sys.executable, "-m", "rexnet", *command.split()], cwd=folder, check=True)
        top1 = json.loads(Path(folder, "validated.json").read_text())["top1"]
        classes = [
            [line.split(",")[1] for line in Path(folder, name).read_text().splitlines()]
            for name in ("predicted.csv", "onnx.csv")
        ]
    row = {"commands": len(COMMANDS), "top1_after_two_epochs": top1, "onnx_predicts_the_same": classes[0] == classes[1]}
    print(row)
    records.append("smoke_cpu", {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
