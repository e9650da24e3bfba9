"""Per-class work through joblib: in this process, on threads, processes, or a Dask or Ray cluster; each result is kept on disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import joblib
import numpy as np

from defences.poison.class_split import ClassSplit
from models.errors import InvalidInput
from models.progress import Progress, silent
from models.stored_images import refused_when_full

Backend = Literal["loky", "threading", "dask", "ray"]
BACKENDS = get_args(Backend)


@dataclass(frozen=True)
class Spread:
    """Runs the calls that are not yet on disk, on several workers, and keeps what comes back. See `defences.poison.findings.Each`.

    Args:
        directory: where results are kept; those of another plan are never read, the caller gives each plan its own.
        prefix: what tells the detectors' results apart.
        workers: processes or threads; 1 is this process.
    """

    directory: Path
    prefix: str
    workers: int = 1
    progress: Progress = silent

    def __call__(self, what: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        arguments = list(calls)
        if not arguments:
            return []
        paths = [self.directory / f"{self.prefix}.{what.replace(' ', '_')}.{number}.npz" for number in range(len(arguments))]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        done = len(paths) - len(missing)
        self.progress(what, done, len(paths))
        parallel = joblib.Parallel(n_jobs=self.workers, return_as="generator")
        found = parallel(joblib.delayed(function)(*arguments[number]) for number in missing)
        for number, result in zip(missing, found, strict=True):
            refused_when_full(self.directory, partial(_keep, paths[number], result))
            done += 1
            self.progress(what, done, len(paths))
        return [_kept(path) for path in paths]


@contextmanager
def backend(name: Backend, *, workers: int, address: str | None = None) -> Iterator[None]:
    """Make joblib use a backend. Raises: InvalidInput: an unknown one, one that is not installed, or no scheduler at the address."""
    if name not in BACKENDS:
        raise InvalidInput(f"expected --backend {', '.join(BACKENDS)}, got {name!r}")
    if name == "dask":
        with _dask(workers, address), joblib.parallel_config(backend="dask"):
            yield
    elif name == "ray":
        _ray(workers, address)
        with joblib.parallel_config(backend="ray"):
            yield
    else:
        with joblib.parallel_config(backend=name):
            yield


@contextmanager
def _dask(workers: int, address: str | None) -> Iterator[None]:
    _needs("distributed", "dask[distributed]", extra="cluster")
    from distributed import Client  # type: ignore[import-not-found,unused-ignore]  # an extra

    try:
        client = (
            Client(address, timeout="10s")  # type: ignore[no-untyped-call,unused-ignore]
            if address
            else Client(  # type: ignore[no-untyped-call,unused-ignore]
                n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
            )
        )
    except (OSError, TimeoutError, ValueError) as failure:
        raise InvalidInput(
            f"expected a Dask scheduler at {address}, but cannot reach it; give --address tcp://HOST:8786"
        ) from failure
    with client:
        try:
            yield
        except TimeoutError as failure:  # joblib's, which waits for workers
            raise InvalidInput(
                f"expected workers of the Dask scheduler at {address}, got none; start some and scan again"
            ) from failure


def _ray(workers: int, address: str | None) -> None:
    _needs("ray", "ray", extra="ray")
    import ray  # an extra
    from ray.util.joblib import register_ray

    ray.init(address=address, num_cpus=None if address else workers, ignore_reinit_error=True, log_to_driver=False)
    register_ray()


def _needs(module: str, package: str, *, extra: str) -> None:
    if find_spec(module) is None:
        raise InvalidInput(f"expected {package} for this --backend, which is not installed; pip install 'hauberk[{extra}]'")


def _keep(path: Path, split: ClassSplit | None) -> None:
    """Whole or not at all: a kill in the middle leaves a .part."""
    unfinished = path.with_suffix(".part")
    values = (
        {}
        if split is None
        else {one.name: getattr(split, one.name) for one in dataclasses.fields(split) if getattr(split, one.name) is not None}
    )
    with unfinished.open("wb") as file:
        np.savez(file, **values)
    os.replace(unfinished, path)


def _kept(path: Path) -> ClassSplit | None:
    with np.load(path, allow_pickle=False) as archive:
        values: dict[str, Any] = {name: archive[name] if archive[name].ndim else float(archive[name]) for name in archive.files}
    return ClassSplit(**values) if values else None
