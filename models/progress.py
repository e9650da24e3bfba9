"""Progress of long work, told to whoever asked for it: the command line draws a bar, a library's user passes a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""


def silent(what: str, done: int, of: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class PartOf:
    """A progress report that is part `number` of `parts`."""

    progress: Progress
    what: str
    number: int
    parts: int

    def __call__(self, done: int, of: int) -> None:
        self.progress(self.what, self.number * of + done, self.parts * of)
