"""The ceiling of an evasion detector: a second bound, from harmless changes of the size of an attack.

Such a detector should refuse adversarial images, and neither clean nor noisy ones. The threshold from clean images is that of every
detector (`defences/calibration/thresholds.py`). The ceiling is the highest score that refuses at most a stated share of each kind of
harmless change, as a split conformal quantile. An image is refused when its score is below both, so both promises hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import conformal_threshold
from defences.calibration.thresholds import FittedDetector
from defences.defended_classifier import Detector

HARMLESS_RATE = 0.02
"""The share of each kind of harmless change that may be refused."""

Scores = Mapping[str, NDArray[np.float64]]
"""A detector's scores of images [n], by kind; low is suspicious."""


def ceiling(harmless: Scores, rate: float = HARMLESS_RATE) -> float:
    """The highest score that, of every kind, refuses at most `rate` of such images, on average over calibrations.

    Args:
        harmless: scores of changed clean images that nothing was fitted on.

    >>> round(ceiling({"noise": np.arange(100.0), "blur": np.arange(100.0) + 7}, 0.05), 3)
    4.0
    """
    return min(conformal_threshold(scores, rate) for scores in harmless.values())


@dataclass(frozen=True, kw_only=True)
class EvasionScores:
    """The scores of a fitted detector.

    Attributes:
        choosing, holding: of clean images, those to choose on and those on which nothing was chosen.
        harmless, attacks: of changed and of attacked held images, by kind.
    """

    choosing: NDArray[np.float64]
    holding: NDArray[np.float64]
    harmless: Scores
    attacks: Scores


@dataclass(frozen=True, kw_only=True)
class FittedEvasion:
    """A detector of evasion whose threshold and ceiling are open.

    Attributes:
        at: (threshold, ceiling) -> the detector.
        settings, arrays, card, summary: see `FittedDetector`.
        calls: model calls per image.
    """

    name: str
    at: Callable[[float, float], Detector]
    settings: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    card: Mapping[str, Any]
    summary: str
    scores: EvasionScores
    calls: int

    def with_ceiling(self, rate: float) -> FittedDetector:
        """The detector with its ceiling; `rate` is the share of clean images for the card's figures of this detector alone."""
        highest = ceiling(self.scores.harmless)
        alone = min(conformal_threshold(self.scores.holding, rate), highest)
        return FittedDetector(
            name=self.name,
            settings=self.settings,
            arrays={**self.arrays, "ceiling": np.array(highest)},
            card={
                **self.card,
                "ceiling": highest,
                "harmless_rate": HARMLESS_RATE,
                "alone": {
                    "boundary": alone,
                    "refused_clean": _refused(self.scores.holding, alone),
                    "refused_harmless": {kind: _refused(scores, alone) for kind, scores in self.scores.harmless.items()},
                    "refused_attacks": {kind: _refused(scores, alone) for kind, scores in self.scores.attacks.items()},
                },
            },
            choosing=self.scores.choosing,
            holding=self.scores.holding,
            at=lambda threshold: self.at(threshold, highest),
            mean_calls=lambda threshold: float(self.calls),
            lowest=-np.inf,
            summary=self.summary,
            remark=lambda threshold: self._remark(min(threshold, highest)),
        )

    def _remark(self, boundary: float) -> str:
        harmless = max(_refused(scores, boundary) for scores in self.scores.harmless.values())
        caught = [_refused(scores, boundary) for scores in self.scores.attacks.values()]
        return (
            f"; it refuses at most {100 * harmless:.1f} % of any kind of noise or harmless change, and "
            f"{100 * min(caught):.1f} to {100 * max(caught):.1f} % of the attacks it was trained on"
        )


def _refused(scores: NDArray[np.float64], boundary: float) -> float:
    return float((scores <= boundary).mean())
