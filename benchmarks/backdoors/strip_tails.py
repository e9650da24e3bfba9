"""What STRIP would refuse more if it refused high scores as well; measured by `python -m benchmarks badexpert`, on its copies.

Where a trigger needs what the image shows, overlays change the answer to a triggered image more than to a clean one. Here each
statistic is the mean under 16 overlays, without early exits, and thresholds are split conformal of the same held images: one at 1 %, or
one at 0.5 % on each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.backdoors.backdoored_copies import Scene
from defences.calibration.conformal import conformal_threshold
from defences.detectors.strip import Blend, Strip, change, entropy_bits
from evaluation.statistics.roc import auroc
from models.classifier import Classifier, Images

RATE = 0.01
OVERLAYS, HELD, CLEAN, TRIGGERED = 16, 1000, 1000, 300
_WAYS: tuple[tuple[Blend, float], ...] = (("add", 1.0), ("mix", 0.5))

HEADER = (
    "backdoor",
    "overlays",
    "statistic",
    "AUROC",
    "low scores at 1 %: TPR, FPR",
    "both at 0.5 %: TPR, FPR",
    "clean scores: median, 99.5 %",
    "triggered: median",
)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class _Three:
    """Scores of held, of clean and of triggered images."""

    held: Scores
    clean: Scores
    triggered: Scores

    def cells(self) -> list[str]:
        low, half = (conformal_threshold(self.held, rate) for rate in (RATE, RATE / 2))
        high = -conformal_threshold(-self.held, RATE / 2)
        one, both = [], []
        for some in (self.triggered, self.clean):
            one.append(f"{100 * (some <= low).mean():.1f} %")
            both.append(f"{100 * ((some <= half) | (some >= high)).mean():.1f} %")
        middle = f"{np.median(self.held):.2f}, {np.quantile(self.held, 1 - RATE / 2):.2f}"
        area = auroc(self.triggered, self.clean).value
        return [f"{area:.2f}", ", ".join(one), f"**{both[0]}**, {both[1]}", middle, f"{np.median(self.triggered):.2f}"]


def rows(scene: Scene, kind: str, classifier: Classifier, triggered: Images) -> Iterator[list[str]]:
    """Of one copy: a row for each way to overlay and each statistic."""
    bank = np.rint(scene.held_out.images[:OVERLAYS] * 255).astype(np.uint8)
    held = scene.held_out.images[OVERLAYS : OVERLAYS + HELD]
    for blend, weight in _WAYS:
        strip = Strip(overlays=bank, threshold=0.0, stages=(OVERLAYS,), slack=(0.0,), blend=blend, weight=weight)
        found = [_means(strip, classifier, images) for images in (held, scene.clean.images[:CLEAN], triggered[:TRIGGERED])]
        for at, statistic in enumerate(("change", "entropy")):
            yield [kind.replace("_", " "), f"{blend} {weight:g}", statistic, *_Three(*(means[at] for means in found)).cells()]


def _means(strip: Strip, classifier: Classifier, images: Images) -> tuple[Scores, Scores]:
    """The mean change and the mean entropy in bits of every image."""
    labels = np.repeat(classifier.predict(images).argmax(axis=1), OVERLAYS)
    order = np.tile(np.arange(OVERLAYS, dtype=np.int32), (len(images), 1))
    outputs = classifier.predict(strip.superimpose(images, order))
    changes, bits = (found.reshape(-1, OVERLAYS).mean(axis=1) for found in (change(outputs, labels), entropy_bits(outputs)))
    return changes, bits
