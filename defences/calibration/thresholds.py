"""A threshold for each of several detectors, such that all of them together keep one false-abstention rate.

A detector is *fitted* when all but its threshold is chosen. The scores of all fitted detectors on held clean images, on which nothing was
chosen, then decide all thresholds at once (`defences/calibration/conformal.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from defences.assembly import TOGETHER, calibrated_for, names_as_text
from defences.calibration.conformal import joint_thresholds
from defences.calibration.split import CalibrationSplit, Terms
from defences.defended_classifier import Detector
from defences.errors import CannotBeFitted
from models.classifier import Classifier


def _no_remark(threshold: float) -> str:
    return ""


@dataclass(frozen=True)
class Fixed:
    """What a method itself decides: a threshold that no rate sets, and whether what it costs lets it be enforced."""

    threshold: float
    mode: Literal["enforce", "monitor"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class FittedDetector:
    """A detector whose threshold is still open.

    Attributes:
        name: of the detector, a key of `defences.table.DEFENCES`.
        settings: its parameters for hauberk.toml, without name and mode.
        arrays: its other parameters, for calibration.npz, by the names of its fields.
        files: what the bundle holds for it beside them, by name.
        card: the measurements behind its choices, for card.json: numbers, texts, lists and dicts.
        choosing: float64 [m], scores of clean images it was fitted on; low is suspicious.
        holding: float64 [n], of every held image in their order. Only those that any threshold in question could refuse have to be
            exact; the others may be lower bounds above these.
        at: the detector with this threshold.
        mean_calls: model calls of a clean image with this threshold.
        lowest: a lower bound of scores; a threshold below it refuses no image.
        unit: of scores, such as "bits".
        summary: the settings in a few words.
        remark: threshold -> a warning or explanation for people, or "".
        only_monitors: why it does not enforce whatever its threshold, a clause for people; "" where it does.
        fixed: of a detector whose threshold follows from its method; it takes no part in the rate that the others share.
    """

    name: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    card: Mapping[str, Any]
    choosing: NDArray[np.float64]
    holding: NDArray[np.float64]
    at: Callable[[float], Detector]
    mean_calls: Callable[[float], float]
    files: Mapping[str, bytes] = field(default_factory=dict)
    lowest: float = 0.0
    unit: str = ""
    summary: str = ""
    remark: Callable[[float], str] = _no_remark
    only_monitors: str = ""
    fixed: Fixed | None = None


Fit = Callable[[Any, CalibrationSplit, Terms], FittedDetector]
"""Fits a detector to a classifier."""


@dataclass(frozen=True)
class CalibratedDetector:
    """A fitted detector with its threshold, its mode, and the reason."""

    fitted: FittedDetector
    threshold: float
    mode: Literal["enforce", "monitor"]
    reason: str

    @property
    def name(self) -> str:
        return self.fitted.name

    @property
    def detector(self) -> Detector:
        return self.fitted.at(self.threshold)

    @property
    def mean_calls(self) -> float:
        """Mean model calls of a clean image."""
        return self.fitted.mean_calls(self.threshold)

    def settings(self) -> dict[str, Any]:
        """Its entry in hauberk.toml."""
        return {"name": self.name, "mode": self.mode, **self.fitted.settings}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its part of calibration.npz."""
        own = {
            **self.fitted.arrays,
            "calibrated_for": np.array(calibrated_for(self.settings())),
            "threshold": np.array(self.threshold),
            "clean_scores": self.fitted.holding,
        }
        return {f"{self.name}_{key}": array for key, array in own.items()}

    def card(self) -> dict[str, Any]:
        """Its part of card.json."""
        return {
            "mode": self.mode,
            "reason": self.reason,
            "threshold": self.threshold,
            "held_images": len(self.fitted.holding),
            "mean_calls": self.mean_calls,
            **self.fitted.card,
        }


def calibrate_detectors(
    classifier: Classifier, parts: CalibrationSplit, fits: Mapping[str, Fit], terms: Terms
) -> tuple[CalibratedDetector, ...]:
    """Fit each detector on one part of the data, and read all thresholds off the other.

    Args:
        fits: by name, in the order of the data path.
        terms: the rate is that of all of them together.

    Raises: CannotBeFitted: there is none that can, or `terms` leave none out.
    """
    fitted, left_out = [], dict[str, CannotBeFitted]()
    for name, fit in fits.items():
        try:
            fitted.append(fit(classifier, parts, terms))
        except CannotBeFitted as failure:
            left_out[name] = failure
    for name, reason in left_out.items():
        if not fitted:
            raise reason
        terms.leave_out(name, reason)
    return conclude(fitted, terms)


def conclude(fitted: Sequence[FittedDetector], terms: Terms) -> tuple[CalibratedDetector, ...]:
    """Read the thresholds off the held scores. A detector enforces its threshold, or monitors where the threshold refuses no image.

    A very low threshold is enforced too: its promise about clean images holds all the same, and a poisoned classifier that is confident
    of every answer must not be able to switch off its own detector.
    """
    open_ones = [one for one in fitted if one.fixed is None]
    groups = [[one for one in open_ones if not one.only_monitors], *([one] for one in open_ones if one.only_monitors)]
    found = {one.name: one for group in groups for one in _sharing(group, terms, alone=len(fitted) == 1)}
    for one in fitted:
        if one.fixed is not None:
            found[one.name] = CalibratedDetector(one, one.fixed.threshold, one.fixed.mode, one.fixed.reason)
    return tuple(found[one.name] for one in fitted)


def _sharing(group: Sequence[FittedDetector], terms: Terms, *, alone: bool) -> list[CalibratedDetector]:
    """Detectors that share the rate; one that only monitors takes nothing from the others, and is a group of its own.

    Args:
        alone: whether no other detector is calibrated beside a single one, whose reason then need not name it.
    """
    if not group:
        return []
    budgets = None if terms.budgets is None or len(group) == 1 else [terms.budgets[one.name] for one in group]
    choosing, holding = [one.choosing for one in group], [one.holding for one in group]
    found = joint_thresholds(choosing, holding, terms.rate, terms.confidence, budgets=budgets)
    by = "" if alone else f" by {' or '.join(one.name for one in group)}"
    promise = "on average over calibrations" if terms.confidence is None else f"with confidence {terms.confidence:g}"
    calibrated = []
    for one, level in zip(group, found, strict=True):
        threshold = level if level >= one.lowest else -np.inf
        reason = (
            f"threshold {threshold:.4g} {one.unit}".rstrip()
            + f" from {len(one.holding)} held images: at most {terms.rate:g} of clean images refused{by} {promise}"
            + one.remark(threshold)
            + (f"; {one.only_monitors}" if one.only_monitors else "")
        )
        monitors = threshold == -np.inf or one.only_monitors
        calibrated.append(CalibratedDetector(one, threshold, "monitor" if monitors else "enforce", reason))
    return calibrated


def calibration_arrays(detectors: Sequence[CalibratedDetector]) -> dict[str, NDArray[Any]]:
    """calibration.npz of detectors that were calibrated together."""
    arrays = {key: array for detector in detectors for key, array in detector.arrays().items()}
    return {TOGETHER: np.array(names_as_text([detector.name for detector in detectors])), **arrays}
