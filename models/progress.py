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
