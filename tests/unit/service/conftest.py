"""Fakes for the service: a bundle without files, a data path without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Detection, Trace, Wave
from models.bundle import Bundle
from models.classifier import Images

Waves = Callable[[Images], Iterator[Wave]]
"""Decides on images: yields (indices in ascending order, their decisions) until each index has come once."""


class FakeWaves:
    """A data path that answers with the mean of each image; a mean above `refuse_above` is refused.

    Every image of a batch whose mean is above `slow_above` is decided in a second wave.
    """

    def __init__(self, *, classes: int = 3, refuse_above: float = 2.0, slow_above: float = 2.0) -> None:
        self.classes, self.refuse_above, self.slow_above = classes, refuse_above, slow_above
        self.batches: list[int] = []

    def __call__(self, images: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        self.batches.append(len(images))
        means = images.mean(axis=(1, 2, 3))
        slow = means > self.slow_above
        for rows in (np.flatnonzero(~slow), np.flatnonzero(slow)):
            if rows.size:
                yield rows, self.decide(means[rows])

    def decide(self, means: NDArray[np.float32]) -> Decisions:
        abstained = means > self.refuse_above
        probabilities = np.repeat(means[:, None], self.classes, axis=1).astype(np.float32)
        probabilities[abstained] = 0
        labels = np.where(abstained, -1, np.minimum((means * self.classes).astype(np.int64), self.classes - 1))
        n = len(means)
        found = Detection("strip", "enforce", abstained, np.full(n, 8), np.full(n, 0.5), np.full(n, 0.5))
        trace = Trace({"purify": 0.001, "predict": 0.002, "abstain": 0.003, "obscure": 0.0005}, n, np.full(n, 1.5), (found,))
        return Decisions(probabilities, abstained, labels, trace)


class Stepwise:
    """A data path from a function that yields waves: each step takes the next wave of the oldest images at work."""

    def __init__(self, waves: Waves) -> None:
        self._waves = waves

    def begin(self, images: Images) -> list[tuple[int, int, Iterator[Wave]]]:
        batch: list[tuple[int, int, Iterator[Wave]]] = []
        self.join(batch, images)
        return batch

    def join(self, batch: list[tuple[int, int, Iterator[Wave]]], images: Images) -> None:
        first = batch[-1][1] if batch else 0
        batch.append((first, first + len(images), iter(self._waves(images))))

    def costs(self, batch: object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.empty(0, np.int64), np.empty(0, np.int64)

    def advance(self, batch: list[tuple[int, int, Iterator[Wave]]], turn: NDArray[np.int64] | None = None) -> Wave:
        for first, _, waves in batch:
            wave = next(waves, None)
            if wave is not None:
                return first + wave[0], wave[1]
        raise RuntimeError("the waves ended before every row was decided")


@pytest.fixture
def bundle() -> Bundle:
    classifier = {
        "file": "model.keras",
        "outputs": "probabilities",
        "input_range": [0.0, 1.0],
        "input_shape": [2, 3, 1],
        "labels": ["ant", "bee", "cat"],
    }
    settings = {"format": 1, "name": "insects", "classifier": classifier, "defences": []}
    return Bundle(Path("insects"), "0123456789abcdef" * 4, settings, {}, {})


@pytest.fixture
def waves() -> FakeWaves:
    return FakeWaves(refuse_above=0.9)
