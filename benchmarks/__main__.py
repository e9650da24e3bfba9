"""python -m benchmarks: run every benchmark and write docs/benchmarks.md."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from benchmarks import purifier, service, strip, total_variation
from benchmarks.peers import machine

_PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_HEAD = """# Benchmarks

Written by `make bench`. Peers run warm, in turns with ours, on the same machine and data; what counts is the ratio. A figure that
disappoints stays in.

"""


def main() -> None:
    """Run all sections; the page is written only when all of them ran."""
    sections = []
    # The service first: this process has loaded nothing yet that could take a processor from the servers.
    for part in (service, total_variation, strip, purifier):
        sections.append(part.section())
        print(sections[-1], flush=True)
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.\n\n"
    _PAGE.write_text(_HEAD + stamp + "\n".join(sections))
    print(f"written to {_PAGE}")


if __name__ == "__main__":
    main()
