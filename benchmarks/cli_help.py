"""Measure the seconds of each command's --help: three processes a command, in rounds in which all take turns.

python benchmarks/cli_help.py
"""

import statistics
import subprocess
import sys
import time

import records
from rexnet.cli import COMMANDS

ROUNDS = 3


def measure_help(command: str) -> float:
    """Return the seconds of one process that prints the help of `command`; "" is the list of commands."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rexnet", *command.split(), "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    records.start()
    commands = ["", *COMMANDS]
    rounds = [{command: measure_help(command) for command in commands} for _ in range(ROUNDS)]
    seconds = {
        f"rexnet {command}".strip(): round(statistics.median(row[command] for row in rounds), 2) for command in commands
    }
    print(seconds)
    records.append("cli_help_cpu", {"seconds": seconds, "rounds": ROUNDS, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
