"""The jobs of a study in other processes, on one machine or many."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Backend = Literal["loky", "threading", "dask", "ray"]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where the work is done."""

    processes: int = 1
    backend: Backend = "loky"
    address: str | None = None


def in_order(job: Callable[[Item], Result], items: Sequence[Item], workers: Workers) -> Iterator[Result]:
    """The result of each item in the order of the items, whichever is done first."""
    if workers.processes == 1 and workers.backend == "loky":
        yield from map(job, items)
        return
    try:
        import joblib
    except ImportError as error:
        raise ValueError("--processes and --backend need joblib: pip install 'rexnet[study]'") from error
    # A batch is sent ahead of every worker, and no more: memory stays flat however long the list is.
    with _cluster(workers), joblib.parallel_config(workers.backend, n_jobs=workers.processes):
        options: dict[str, Any] = {"return_as": "generator", "batch_size": 1, "pre_dispatch": "3*n_jobs"}
        run: Any = joblib.Parallel(**options)
        yield from run(joblib.delayed(job)(item) for item in items)


def _cluster(workers: Workers) -> AbstractContextManager[Any]:
    """The connection to the cluster that the joblib backend of the same name uses."""
    if workers.backend == "dask":
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError("--backend dask needs Dask: pip install 'rexnet[dask]'") from error
        return Client(workers.address)
    if workers.backend == "ray":
        try:
            import ray  # pyright: ignore[reportMissingImports]
            from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError("--backend ray needs Ray: pip install 'ray[default]'") from error
        ray.init(address=workers.address)
        register_ray()
    return nullcontext()
