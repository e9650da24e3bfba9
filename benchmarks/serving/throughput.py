"""python -m benchmarks.serving.throughput WHAT ...: the gateway of several checkouts, or with several settings, alternating.

WHAT is a directory, settings, or both: . or /tmp/before or .,HAUBERK_THREADS=2. It compares a change of the hot path with the old code.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import Loader
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, serving
from benchmarks.serving import stages
from models.datasets import MNIST, load_dataset


def contender(what: str) -> Contender:
    """The gateway of WHAT: a checkout, settings, or both."""
    root, *settings = what.split(",")
    return Contender(what, GATEWAY, dict(setting.split("=", 1) for setting in settings), root=Path(root or ".").resolve())


def main() -> None:
    """Print requests/s, latencies and the microseconds of each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each, in three rounds")
    given = parser.parse_args()
    images = wire.to_bytes(load_dataset(MNIST, split="test").take(slice(0, 2000)).images)[..., 0]
    requests = [wire.as_json(image) for image in images]
    meter = stages.Meter()
    with TemporaryDirectory() as name, ExitStack() as stack:
        loader = Loader(Path(name), given.seconds)
        servers = [
            stack.enter_context(serving(contender(what), Path(name) / str(number), requests[0]))
            for number, what in enumerate(given.what)
        ]
        cells = loader.alternate(servers, loader.prepare(requests), meter.around, clients=given.clients)
        rows = [
            [
                what,
                f"{cell.rate:,.0f}",
                f"{cell.percentile_ms(50):.1f}",
                f"{cell.percentile_ms(99):.1f}",
                *(f"{us:,.0f}" for stage, us in meter.per_request_us(server).items() if stage in stages.STAGES),
            ]
            for what, server, cell in zip(given.what, servers, cells, strict=True)
        ]
    print(table(("what", "requests/s", "p50 ms", "p99 ms", *(f"{stage} us" for stage in stages.STAGES)), rows))


if __name__ == "__main__":
    main()
