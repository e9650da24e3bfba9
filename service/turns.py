"""Whose images take part in a step of the batcher: deficit round robin by model calls (Shreedhar and Varghese, SIGCOMM 1995).

While accounts share the worker, each may spend so many calls a step, the cheapest images first, and saves what its next image costs more.
All have their turns in one forward call: a step is as long as all of them together spend, and no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.lines import AccountLine

TOGETHER = 16
"""Calls of an account in a step it shares: from about so many rows on, a row costs as much as in any larger forward call."""
ALONE = 256
"""Calls of a step nobody shares: one forward call of the Keras engine. A longer one is no faster, and a newcomer waits for its end."""
STEP_S = 0.25
"""Seconds that a step should not exceed by much: with a slow classifier it has fewer calls, or newcomers would wait for seconds."""
CALLS_AT_LEAST = 8
COMPANY_STEPS = 64
"""Steps that an account's company lasts after it has no work: one that asks again and again finds short steps each time."""
_ANY = 1 << 30


class Placed(Protocol):
    """Images of an account, the first of them number `starts` of a batch."""

    starts: int

    @property
    def line(self) -> AccountLine[Any]: ...


class Turns:
    """Deals out the model calls of each step. Used by the worker alone.

    Args:
        call_s: about what a model call takes.
    """

    def __init__(self, call_s: float = 0.0) -> None:
        in_time = ALONE if call_s * ALONE <= STEP_S else int(STEP_S / call_s)
        self._alone = max(CALLS_AT_LEAST, in_time)
        self._together = min(TOGETHER, self._alone)
        self._company = 0  # steps
        self._lines: Sequence[AccountLine[Any]] = ()
        self._first_calls = 1  # of an image in its first step, as seen last

    @property
    def shared(self) -> bool:
        """Whether accounts share the worker, now or a little while ago."""
        return self._company > 0

    def begin(self, lines: Sequence[AccountLine[Any]]) -> None:
        """A step begins, for the accounts that have work."""
        shared = self.shared
        self._company = COMPANY_STEPS if len(lines) > 1 else max(0, self._company - 1)
        self._lines = lines
        for index, line in enumerate(lines):
            line.index = index
            saved = line.allowance if shared else 0
            line.allowance = saved + self._together if self.shared else self._alone

    def admits(self, line: AccountLine[Any]) -> int:
        """How many images of an account may have their first step now."""
        return max(0, line.allowance) // self._first_calls if self.shared else _ANY

    def choose(
        self, numbers: NDArray[np.int64], calls: NDArray[np.int64], parts: Sequence[Placed], fresh: int
    ) -> NDArray[np.int64] | None:
        """The images whose turn it is, of those in doubt; None for all.

        Args:
            numbers, calls: the undecided images of a batch, ascending, and what the step would take for each.
            parts: where they belong, in the order of their numbers.
            fresh: images from this number on have just joined: they take part anyway.
        """
        first = int(numbers.searchsorted(fresh))
        if first < len(calls):
            self._first_calls = max(1, int(np.maximum.reduce(calls[first:])))
        if np.add.reduce(calls) <= (self._together if self.shared else self._alone):
            self._have_spent_enough()
            return None
        starts = [part.starts for part in parts]
        owners = np.array([part.line.index for part in parts])[np.searchsorted(starts, numbers, side="right") - 1]
        for line, spent in zip(self._lines, np.bincount(owners[first:], calls[first:], len(self._lines)).tolist(), strict=True):
            line.allowance -= int(spent)
        turn = self._fitting(calls[:first], owners[:first])
        while not turn.size and first == len(calls):
            for line in self._lines:
                line.allowance += self._together
            turn = self._fitting(calls, owners)
        return numbers[turn]

    def _fitting(self, calls: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions, ascending, of the images in doubt that the allowances pay, and pay for them."""
        turn = np.zeros(len(calls), bool)
        for line in self._lines:
            own = np.flatnonzero(owners == line.index)
            sums = np.cumsum(calls[own])
            if own.size and sums[-1] > line.allowance:
                own = own[np.argsort(calls[own], kind="stable")]
                sums = np.cumsum(calls[own])
                own = own[: np.searchsorted(sums, line.allowance, side="right")]
                line.allowance -= int(sums[len(own) - 1]) if own.size else 0
            else:
                self._has_spent_enough(line)
            turn[own] = True
        return np.flatnonzero(turn)

    def _have_spent_enough(self) -> None:
        for line in self._lines:
            self._has_spent_enough(line)

    def _has_spent_enough(self, line: AccountLine[Any]) -> None:
        """Nothing in doubt is left to pay: what is saved is for an image that waits, no more than its first step costs."""
        line.allowance = min(line.allowance, self._first_calls) if line.requests else min(line.allowance, 0)
