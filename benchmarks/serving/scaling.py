"""python -m benchmarks scaling: one worker and two on this machine, alternating under one load; docs/scaling.md derives N from it."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, serving
from models.datasets import MNIST, load_dataset

CELL_S = 60.0
_ROUNDS = 2
_CLIENTS = (1, 4, 16, 64)
_IMAGES = 2000
_WORKERS = (1, 2)


def _contender(workers: int) -> Contender:
    settings = {"HAUBERK_SECRET": "0123456789abcdef" * 2, "HAUBERK_THREADS": "1"}
    return Contender(f"workers: {workers}", GATEWAY, settings | {"BENTOML_CONFIG_OPTIONS": f"services.hauberk.workers={workers}"})


def section(cell_s: float = CELL_S) -> str:
    """The page's section."""
    test = load_dataset(MNIST, split="test").take(slice(0, _IMAGES))
    requests = [wire.as_json(image) for image in wire.to_bytes(test.images)[..., 0]]
    with TemporaryDirectory() as name, ExitStack() as stack:
        loader = Loader(Path(name), cell_s, _ROUNDS)
        file = loader.prepare(requests)
        servers = [
            stack.enter_context(serving(_contender(workers), Path(name) / f"workers-{workers}", requests[0]))
            for workers in _WORKERS
        ]
        cells = {clients: loader.alternate(servers, file, clients=clients) for clients in _CLIENTS}
    return _text(cells, cell_s)


def _text(cells: dict[int, list[LoadCell]], cell_s: float) -> str:
    rows = [
        [
            clients,
            workers,
            f"**{cell.rate:,.0f}**",
            f"{cell.rate / pair[0].rate:.2f}x",
            f"{cell.percentile_ms(50):.1f}",
            f"{cell.percentile_ms(99):.1f}",
            f"{cell.processor_share:.0%}",
            cell.failures,
        ]
        for clients, pair in cells.items()
        for workers, cell in zip(_WORKERS, pair, strict=True)
    ]
    header = ("clients", "workers", "requests/s", "to one worker", "p50 ms", "p99 ms", "generator, of a processor", "failed")
    return (
        f"## Workers\n\n`python -m benchmarks scaling`: {cell_s:g} s a cell, alternating, every defence on, one thread of the "
        "classifier a worker, "
        "one image a request as JSON. The load generator runs on the same processors; its share is not available to the second "
        "worker.\n\n" + table(header, rows)
    )


def main() -> None:
    """Print the section; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell-seconds", type=float, default=CELL_S, help="seconds of a cell, default %(default)s")
    print(section(parser.parse_args().cell_seconds))


if __name__ == "__main__":
    main()
