"""The cost of a stack of defences on clean images: accuracy, calibration, refusals, time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.defended_classifier import DefendedClassifier
from evaluation.cells import Cell
from evaluation.tables.outcomes import ABSTAINED, RIGHT, WRONG
from evaluation.variants import Target
from models.classifier import Labels, Probabilities
from models.datasets import Dataset

SECTION = "benign"
_BINS = 15
_WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Benign:
    """Experiments on clean, labelled images; the first `timed` of them are also classified one by one, for the latency."""

    target: Target
    data: Dataset
    timed: int

    def cells(self) -> Iterator[Cell]:
        """One cell per stack of defences."""
        for name in self.target.variants:
            yield Cell(SECTION, name, partial(self._measured, name))

    def _measured(self, name: str) -> dict[str, Any]:
        defended = self.target.variants[name]
        decisions = defended.classify(self.data.images)
        answered = ~decisions.abstained
        hits = decisions.labels == self.data.labels
        overlays = [detection.calls for detection in decisions.trace.detections]
        return {
            "images": len(self.data),
            "outcomes": np.where(hits, RIGHT, np.where(answered, WRONG, ABSTAINED)).tolist(),
            "right": int(hits.sum()),
            "abstained": int(decisions.abstained.sum()),
            "calibration_error": calibration_error(decisions.probabilities[answered], self.data.labels[answered]),
            "model_calls_per_image": 1 + float(np.mean(overlays[0])) if overlays else 1.0,
            "latency": latency(defended, self.data, self.timed),
        }


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): sum over 15 equal bins of confidence of
    share * |accuracy - mean confidence|."""
    if not len(labels):
        return 0.0
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=hits - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def latency(defended: DefendedClassifier, data: Dataset, count: int) -> dict[str, float]:
    """Milliseconds per image, classified one by one in this process: median and 99th percentile."""
    spent: NDArray[np.float64] = np.empty(min(count, len(data)))
    for number in range(-min(_WARM_UP, len(spent)), len(spent)):
        image = data.images[max(number, 0)][None]
        started = time.perf_counter()
        defended.classify(image)
        if number >= 0:
            spent[number] = time.perf_counter() - started
    return {"p50_ms": 1e3 * float(np.median(spent)), "p99_ms": 1e3 * float(np.quantile(spent, 0.99))}
