"""What was wanted beside what was measured, one line each; one that is missed is shown like one that is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.peers import table


@dataclass(frozen=True)
class Wanted:
    """A ratio and its bound: at least, or `at_most`."""

    what: str
    bound: float
    measured: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Never for NaN."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


def wanted_table(lines: Sequence[Wanted]) -> str:
    """As Markdown."""
    rows = [
        [
            line.what,
            f"{'<=' if line.at_most else '>='} {line.bound:.3g}x",
            f"**{line.measured:.3g}x**",
            "yes" if line.met else "no",
        ]
        for line in lines
    ]
    return table(("ratio", "wanted", "measured", "met"), rows)
