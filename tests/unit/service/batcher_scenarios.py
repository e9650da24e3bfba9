"""Scenarios against a batcher of their own: images that are told apart by their mean, a data path that waits, an observer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Trace
from models.classifier import Images
from service.batching import Batcher
from tests.unit.service.conftest import Stepwise, Waves

SHAPE = (2, 3, 1)


def images(*means: float) -> Images:
    return np.stack([np.full(SHAPE, mean, np.float32) for mean in means])


def mean_of(decisions: Decisions) -> list[float]:
    return [round(float(row[0]), 3) for row in decisions.probabilities]


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waited: list[float] = []
        self.decisions: list[Decisions] = []
        self.failures: list[Exception] = []

    def batch(self, images: int, waited_s: Sequence[float]) -> None:
        self.batches.append(images)
        self.waited.extend(waited_s)

    def decided(self, decisions: Decisions) -> None:
        self.decisions.append(decisions)

    def failed(self, failure: Exception) -> None:
        self.failures.append(failure)


class Gate:
    """A data path that waits: `entered` says that it began, `open` lets it go on."""

    def __init__(self, waves: Waves) -> None:
        self._waves = waves
        self.entered, self.open = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0

    def __call__(self, batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        self.entered.set()
        assert self.open.wait(10)
        waves = self._waves(batch)
        first = next(waves)
        self.inside -= 1
        yield first
        yield from waves


def run(
    scenario: Callable[..., Awaitable[Any]], waves: Waves | None, observer: Any = None, path: Any = None, **options: Any
) -> Any:
    """Run a scenario against a batcher of its own, within ten seconds, and stop that."""

    async def main() -> Any:
        batcher = Batcher(path or Stepwise(waves or _no_waves), observer or Recorder(), **options)
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            await batcher.stop()

    return asyncio.run(main())


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


def _no_waves(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
    raise AssertionError


def decisions_of(batch: Images) -> Decisions:
    means = batch.mean(axis=(1, 2, 3))
    return Decisions(np.repeat(means[:, None], 3, axis=1), np.zeros(len(batch), bool), np.zeros(len(batch), np.int64), Trace())
