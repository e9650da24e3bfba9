"""Progress reports of long work: the command line draws a bar, a library's user passes a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Called with (name of the work, steps done, steps in total)."""


def silent(what: str, done: int, of: int) -> None:
    """Discard the report."""


@dataclass(frozen=True)
class PartOf:
    """Progress of part `number` (from 0) of `parts` equal parts, reported as progress of the whole."""

    progress: Progress
    what: str
    number: int
    parts: int

    def __call__(self, done: int, of: int) -> None:
        self.progress(self.what, self.number * of + done, self.parts * of)


@dataclass
class CountedSteps:
    """Progress of a work of so many steps in all, whose parts count on from one another."""

    progress: Progress
    what: str
    of: int
    done: int = 0

    def add(self, steps: int) -> None:
        """So many more steps are done."""
        self.done += steps
        self.progress(self.what, self.done, self.of)

    def end(self) -> None:
        """No further step is needed."""
        self.done = self.of
        self.progress(self.what, self.of, self.of)
