"""The machine that measures: its processor, the versions of its engines, the memory of a process."""

import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from rexnet.training.distributed import World
from rexnet.training.run_folder import describe_environment

_ENGINE_PACKAGES = ("onnx", "onnxruntime", "openvino")


def processor_name() -> str:
    """As the system reports it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def engine_versions() -> dict[str, str | None]:
    """None for a package that is not installed."""
    return {name: _version(name) for name in _ENGINE_PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Date, commit, processor and versions: what a reader needs to compare figures of two machines."""
    environment = describe_environment(World(device=torch.device("cpu")))
    return {**environment, "processor": processor_name(), **engine_versions()}


def peak_mib_of_process(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float | None:
    """The most memory of a new process that prepares a call with these arguments, makes it twice and does nothing
    else; None where the system does not tell.

    A new one, since what a process has given back is still in its peak, and engines keep what others then use.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_mib_after, prepare, arguments).result()


def _peak_mib_after(prepare: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> float | None:
    call = prepare(*arguments)
    for _ in range(2):
        call()
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        # ru_maxrss would begin with what the parent process held.
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None
