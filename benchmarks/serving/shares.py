"""python -m benchmarks shares: where the processor time of a request goes, part by part, with every defence on and with none.

Parts are measured in one process without HTTP (`benchmarks/serving/parts.py`). What a request over HTTP takes beyond them, in all
processes of the server, is the event loop, the connection, HTTP and the edge. Processor time, since other work on the machine delays a
request but does not make it more work.

With `--against`, another checkout is measured in turns with this one, and its decisions are compared with these, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import Loader
from benchmarks.harness.peers import table
from benchmarks.harness.servers import ROOT, Contender, serving
from benchmarks.serving import parts
from benchmarks.serving.service_tables import AT, OFF, ON
from benchmarks.serving.tracing import Processor
from models.bundle import default_bundle_directory, standard_bundle_directory
from models.datasets import MNIST, load_dataset

_CELL_S, _PIECES, _TURNS, _REQUESTS = 12.0, 3, 5, 500
REST = "connection, HTTP, edge"
WHOLE = "all of it"
_BUNDLES: dict[str, Callable[[], Path]] = {"mnist-standard": standard_bundle_directory, "mnist": default_bundle_directory}

Shares = Mapping[str, float]
"""Microseconds of a processor per image, by part."""
Column = tuple[str, int, bool]
"""A bundle, the number of clients, and whether its defences are on."""


def section(cell_s: float = _CELL_S) -> str:
    """The page's section."""
    return text(measured(_BUNDLES, [ROOT], cell_s)[0])


def measured(bundles: Iterable[str], roots: Sequence[Path], cell_s: float) -> list[dict[Column, Shares]]:
    """Shares of every column, in each of these checkouts."""
    found: list[dict[Column, Shares]] = [{} for _ in roots]
    for bundle in bundles:
        whole = _over_http(bundle, roots, cell_s) if cell_s else {}
        for clients in (1, AT):
            for defended in (True, False):
                for number, own in enumerate(_in_process(bundle, clients, roots, defended=defended)):
                    parts_us = sum(own.values())
                    request = whole.get((number, clients, defended))
                    beyond = {} if request is None else {REST: request - parts_us}
                    found[number][bundle, clients, defended] = own | beyond | {WHOLE: parts_us if request is None else request}
    return found


def _in_process(bundle: str, clients: int, roots: Sequence[Path], *, defended: bool) -> list[dict[str, float]]:
    options = ["--together", str(clients), *([] if defended else ["--off"])]
    turns: list[list[dict[str, float]]] = [[] for _ in roots]
    for turn in range(_TURNS):
        for number in range(len(roots)) if turn % 2 == 0 else reversed(range(len(roots))):
            turns[number].append(_parts(roots[number], bundle, *options))
    return [{part: float(np.median([each[part] for each in of_one])) for part in of_one[0]} for of_one in turns]


def _parts(root: Path, bundle: str, *options: str) -> Any:
    # Not "-m": it would find this checkout's modules instead of that one's.
    command = [sys.executable, "-P", parts.__file__, str(_BUNDLES[bundle]()), *options]
    ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, cwd=root, check=True, capture_output=True)
    return json.loads(ran.stdout)


def _over_http(bundle: str, roots: Sequence[Path], cell_s: float) -> dict[tuple[int, int, bool], float]:
    """Microseconds of a request by checkout, clients, and whether defences are on."""
    digits = wire.to_bytes(load_dataset(MNIST, split="test").images[:_REQUESTS])[..., 0]
    requests = [wire.as_json(image) for image in digits]
    found = {}
    with TemporaryDirectory() as name, ExitStack() as stack:
        loader = Loader(Path(name), cell_s, _PIECES)
        contenders = {(i, on): _contender(bundle, i, root, on=on) for i, root in enumerate(roots) for on in (True, False)}
        servers = [
            stack.enter_context(serving(contender, Path(name) / f"server-{number}", requests[0]))
            for number, contender in enumerate(contenders.values())
        ]
        file = loader.prepare(requests)
        for clients in (1, AT):
            processor = Processor()
            loader.alternate(servers, file, processor.around, clients=clients)
            for (i, on), contender in contenders.items():
                found[i, clients, on] = processor.per_request_us(contender.name)
    return found


def _contender(bundle: str, number: int, root: Path, *, on: bool) -> Contender:
    usual = ON if on else OFF
    settings = {**usual.settings, "HAUBERK_BUNDLE": str(_BUNDLES[bundle]())}
    return replace(usual, name=f"{usual.name}, checkout {number}", settings=settings, root=root)


def text(shares: Mapping[Column, Shares]) -> str:
    """The section."""
    return "\n".join(
        [
            "## Where the processor time of a request goes",
            "",
            "`python -m benchmarks shares`: microseconds of a processor per request of one image, JSON, the median of repeats. Parts are "
            f"measured in one process, an image at a time beside batches of {AT}; a request over HTTP in all processes of the server. "
            f'"{REST}" is what it takes beyond the parts.',
            "",
            _table(shares),
        ]
    )


def _table(shares: Mapping[Column, Shares], others: Mapping[Column, Shares] | None = None) -> str:
    """A column each, with that of another checkout in brackets."""
    heads = [f"{bundle}, {clients} client{'s' * (clients > 1)}, {'on' if on else 'off'}" for bundle, clients, on in shares]
    rows = [
        [part, *(_cell(each.get(part), None if others is None else others[column].get(part)) for column, each in shares.items())]
        for part in (*parts.PARTS, REST, WHOLE)
    ]
    return table(("part", *heads), rows)


def _cell(us: float | None, other: float | None) -> str:
    return "" if us is None else f"{us:,.0f}" + ("" if other is None else f" ({other:,.0f})")


def main() -> None:
    """Print the section, or this checkout beside another one; docs/benchmarks.md is written by `python -m benchmarks` only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cell-seconds", type=float, default=_CELL_S, help="of load on a server, default %(default)s; 0: no HTTP"
    )
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--bundles", nargs="*", choices=list(_BUNDLES), default=list(_BUNDLES), help="default both")
    given = parser.parse_args()
    if given.against is None:
        print(text(measured(given.bundles, [ROOT], given.cell_seconds)[0]))
        return
    roots = [ROOT, given.against.resolve()]
    for bundle in given.bundles:
        same = len({_parts(root, bundle, "--fingerprint") for root in roots}) == 1
        print(f"{bundle}: decisions are {'the same, byte for byte' if same else 'NOT the same'}", flush=True)
    print(_table(*measured(given.bundles, roots, given.cell_seconds)))


if __name__ == "__main__":
    main()
