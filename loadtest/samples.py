"""One sample per request, neither rounded nor dropped, and statistics of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

BAD_INPUT = frozenset(("malformed", "oversize"))
_TRY_AGAIN = frozenset((429, 503))


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        intended_s: its intended start, in seconds from the start of the test.
        seconds: from the intended start to the end of its answer.
        status: 0 without an answer.
        due: whether the status is an expected one.
        told_when: whether the answer had a Retry-After.
        images, abstained: images in it, and images of it that were refused.
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
        """Neither answered as expected nor refused with Retry-After."""
        return not self.due and not (self.status in _TRY_AGAIN and self.told_when)


def in_good_faith(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of requests with valid input."""
    return [sample for sample in samples if sample.kind not in BAD_INPUT]


def between(samples: Iterable[Sample], first_s: float, last_s: float) -> list[Sample]:
    """The samples with an intended start in [first_s, last_s)."""
    return [sample for sample in samples if first_s <= sample.intended_s < last_s]


def percentile_ms(samples: Sequence[Sample], percent: float) -> float:
    """A percentile of the latencies in milliseconds, by nearest rank; NaN without samples."""
    latencies = sorted(sample.seconds for sample in samples)
    if not latencies:
        return math.nan
    return 1000 * latencies[max(0, math.ceil(percent / 100 * len(latencies)) - 1)]


def ratio(samples: Sequence[Sample], which: Callable[[Sample], bool]) -> float:
    """The share of samples for which `which` is true; NaN without samples."""
    return sum(map(which, samples)) / len(samples) if samples else math.nan


def abstained_ratio(samples: Iterable[Sample]) -> float:
    """The share of answered images that were refused; NaN without images."""
    images, abstained = 0, 0
    for sample in samples:
        if sample.status == 200:
            images, abstained = images + sample.images, abstained + sample.abstained
    return abstained / images if images else math.nan
