"""What came of the requests, one row each; nothing is rounded and nothing dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

BAD_INPUT = frozenset(("malformed", "oversize"))
_COME_AGAIN = frozenset((429, 503))


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        intended_s: when it was meant to begin, in seconds from the start of the test.
        seconds: from then to the end of its answer.
        status: 0 when there was no answer.
        due: whether that is the answer it should get.
        told_when: whether a Retry-After came with it.
        images, abstained: how many it held, and how many of them were refused.
    """

    kind: str
    intended_s: float
    seconds: float
    status: int
    due: bool
    told_when: bool = False
    images: int = 0
    abstained: int = 0

    @property
    def lost(self) -> bool:
        """Neither answered as due nor told when to come again."""
        return not self.due and not (self.status in _COME_AGAIN and self.told_when)


def in_good_faith(samples: Iterable[Sample]) -> list[Sample]:
    """Those that ask for a prediction."""
    return [sample for sample in samples if sample.kind not in BAD_INPUT]


def between(samples: Iterable[Sample], first_s: float, last_s: float) -> list[Sample]:
    """Those meant to begin in [first_s, last_s)."""
    return [sample for sample in samples if first_s <= sample.intended_s < last_s]


def percentile_ms(samples: Sequence[Sample], percent: float) -> float:
    """Of the latencies, the nearest rank; NaN without samples."""
    latencies = sorted(sample.seconds for sample in samples)
    if not latencies:
        return math.nan
    return 1000 * latencies[max(0, math.ceil(percent / 100 * len(latencies)) - 1)]


def ratio(samples: Sequence[Sample], which: Callable[[Sample], bool]) -> float:
    """The part of the samples for which `which` holds; NaN without samples."""
    return sum(map(which, samples)) / len(samples) if samples else math.nan


def abstained_ratio(samples: Iterable[Sample]) -> float:
    """The part of the images that were refused; NaN without any."""
    images, abstained = 0, 0
    for sample in samples:
        if sample.status == 200:
            images, abstained = images + sample.images, abstained + sample.abstained
    return abstained / images if images else math.nan
