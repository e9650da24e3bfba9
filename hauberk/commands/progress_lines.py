"""Progress where no bar can be drawn, such as stderr in a file: a line every so often."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from models.printable import printable

EVERY_S = 10.0


class ProgressLines:
    """Follows reports of (what, done, of): a line when a work begins, one when it ends, and one every `every_s` between.

        overlays: 1,200 of 4,800 steps, 25 %, 40 s so far, about 2 minutes left

    Args:
        unit: of what is counted. units: of others, by what they report.
        out: stderr when none.
    """

    def __init__(
        self,
        unit: str,
        units: Mapping[str, str],
        *,
        out: TextIO | None = None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit, self._units, self._out, self._every_s, self._clock = unit, units, out or sys.stderr, every_s, clock
        self._began: dict[str, float] = {}
        self._told = 0.0
        self._ended: set[str] = set()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = self._clock()
        began = self._began.setdefault(what, now)
        over = done >= of and what not in self._ended
        if began != now and not over and now - self._told < self._every_s:
            return
        if over:
            self._ended.add(what)
        elif done >= of:
            return
        self._told = now
        self._write(what, done, of, now - began)

    def _write(self, what: str, done: int, of: int, took_s: float) -> None:
        unit = self._units.get(what.replace(" ", "_"), self._unit)
        text = f"{what}: {done:,} of {of:,} {unit}, {100 * done / max(1, of):.0f} %, {took_s:.0f} s so far"
        if 0 < done < of:
            text += f", about {_left(took_s * (of - done) / done)} left"
        print(printable(text), file=self._out, flush=True)


def _left(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
