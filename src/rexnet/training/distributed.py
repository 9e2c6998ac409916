"""Runs of several processes, started by torchrun. The only module that reads environment variables."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from rexnet.errors import LostProcessError
from rexnet.processes import dead_worker, is_main_process, process_count
from rexnet.training.interruption import StopRequest

Item = TypeVar("Item")

# The others wait while the main process downloads or lists a dataset; a dead process is detected at once anyway.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among the processes of the run. A single process is a world of size 1 and never
    communicates."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes on this machine."""
    stop: StopRequest = field(default_factory=StopRequest, compare=False)

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and shows the progress bar."""
        return self.rank == 0

    def in_turns(self, load: Callable[[], Item]) -> Item:
        """Call `load` first in the main process, then in the first process of each other machine, then in the rest,
        which find the downloaded files whether or not the machines share a disk."""
        mine = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        loaded = None
        for turn in range(3):
            if turn == mine:
                loaded = load()
            self.wait()
        return cast(Item, loaded)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` with gradients averaged over the processes; each step starts from the main process's
        batch-norm statistics."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # The gradient of a 1x1 kernel on one pixel has different strides from its weights in channels-last order; their
        # memory layout is the same, and the warning about performance does not apply.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids)

    def keep_gradients(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context that postpones averaging: gradients add up in this process until the next backward pass
        outside it; `network` is a result of `wrap`."""
        return nullcontext() if self.size == 1 else cast(Any, network).no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over the processes, the same on each. Integers stay exact; `values` is not
        changed."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any process, so that all processes decide alike."""
        return tuple(bool(count) for count in self.sum(torch.tensor(flags, dtype=torch.int32)).tolist())

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's batch-norm statistics to the others, as `wrap` does before each step, so that all
        processes evaluate the same network, and the main process's checkpoint suffices to resume."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def from_main(self, value: Any) -> Any:
        """Return the main process's `value` on every process; it may hold plain values and CPU tensors."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, items: list[Item]) -> list[Item]:
        """Return the items of all processes in the order of their ranks; items are plain values."""
        if self.size == 1:
            return items
        parts: list[list[Item] | None] = [None] * self.size
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part or []]

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def joined(device: str = "auto", *, follow_parent: bool = False) -> Iterator[World]:
    """Join the run that torchrun describes, or start a single process. `device`: auto, cpu, cuda, cuda:N or mps.

    With several GPUs, a process uses the GPU of its local rank. Signals become requests to stop, and so does the end of
    torchrun or, with `follow_parent`, of any parent process. Raise ValueError for a device that this machine does not
    have, and LostProcessError if another process of the run ends early.
    """
    size = process_count()
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    world = World(device=chosen, rank=rank, size=size, local_rank=local_rank)
    listening = world.stop.listening(follow_parent=follow_parent or size > 1, announces=world.is_main)
    with listening, _explain_runtime_errors(world):
        if size == 1:
            yield world
            return
        # The default arguments in this module keep alive the process group that exists at its import. If
        # DistributedDataParallel imported it first, that would be this run's group, whose threads can abort Python at
        # exit.
        import_module("torch.distributed.nn.functional")
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=_store(), rank=rank, world_size=size, timeout=_PATIENCE)
        try:
            yield world
        finally:
            torch.distributed.destroy_process_group()


def ask_main(question: str, answer: Callable[[], Any]) -> Any:
    """Return the main process's `answer`, plain values, on every process before they join the run; it is called once.
    Raise LostProcessError if the main process ends without an answer."""
    store = _questions()
    if is_main_process() and not store.check([question]):
        store.set(question, json.dumps(answer()))
    try:
        return json.loads(store.get(question))
    except torch.distributed.DistError as error:
        raise LostProcessError("the main process ended before the run started; see its message") from error


@cache
def _questions() -> Store:
    """Open the store once; without torchrun, the main process serves it until it ends."""
    return PrefixStore("questions", _store())


def _store() -> Store:
    """Open the store that torchrun describes, with a separate key prefix for each attempt of --max-restarts: addresses
    of the previous attempt stay in the store and would be tried until the timeout."""
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    return PrefixStore(f"rexnet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def _explain_runtime_errors(world: World) -> Iterator[None]:
    """Turn the RuntimeErrors that torch raises when another process has ended into LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if (sentence := dead_worker(error)) is not None:
            raise LostProcessError(sentence) from error
        # gloo does not have an exception type of its own.
        if isinstance(error, torch.distributed.DistError) or (world.size > 1 and "gloo" in str(error).lower()):
            lost = (
                f"process {world.rank} of {world.size} lost another process of the run; see the message of that process"
            )
            raise LostProcessError(lost) from error
        raise


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if mps else "cpu"
    cuda_names = ["cuda", *(f"cuda:{number}" for number in range(gpus))] if gpus else []
    allowed = ["auto", "cpu", *cuda_names, *(["mps"] if mps else [])]
    if name not in allowed:
        raise ValueError(f"--device is {name!r}; allowed on this machine: {', '.join(allowed)}")
    return torch.device("cuda", local_rank % gpus) if name == "cuda" else torch.device(name)
