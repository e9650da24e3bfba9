"""report.json of a scan: verdicts class by class in one document; the classes below are its schema.

Two scans with the same classifier, data, layer, methods and seed differ only in `created` and `seconds`, whatever the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from defences.poison.findings import ClassFindings, Confusion, Findings, confusion
from models.accuracy import Judgement
from models.classifier import Labels

FORMAT = 1


@dataclass(frozen=True)
class MethodReport:
    """The findings of one detector."""

    method: str
    poisoned_classes: list[str]
    classes: list[ClassFindings]
    confusion: Confusion | None


@dataclass(frozen=True)
class ScanReport:
    """The whole report.

    Attributes:
        verdict: "poison" if any method finds any in any class, "cannot tell" if no method can judge any class, else "clean".
        suspicious_samples: number of samples that are false in `is_clean.npy`.
        poisoned_classes: classes in which any method finds poison.
        classifier: file, the layer whose activations are clustered, the earlier layer that checks the clusters.
        data: file, split, rows, samples, classes.
        confusion: of `is_clean.npy` against the truth, where that was given.
        seconds: duration of this run, without the results reused from an earlier one.
        accuracy: whether the classifier is as right as these data allow; without a reason when it is.
    """

    format: int
    hauberk: str
    created: str
    seconds: float
    verdict: Literal["clean", "poison", "cannot tell"]
    suspicious_samples: int
    poisoned_classes: list[str]
    classifier: dict[str, Any]
    data: dict[str, Any]
    seed: int
    methods: list[MethodReport]
    confusion: Confusion | None
    accuracy: Judgement | None = None


SCAN_REPORT = TypeAdapter(ScanReport)
"""Reads, writes and describes reports: `SCAN_REPORT.json_schema()`."""


def unjudged(methods: Sequence[MethodReport]) -> list[ClassFindings]:
    """The classes that no method could judge, with the reason of the first one."""
    judged = {one.label for method in methods for one in method.classes if one.verdict in ("clean", "poison")}
    return [one for one in methods[0].classes if one.label not in judged]


def merged_clean_mask(findings: Sequence[Findings], labels: Labels) -> NDArray[np.bool_]:
    """is_clean [n] of several detectors: in each class the first that finds poison decides which samples it is."""
    is_clean = np.ones(len(labels), bool)
    decided: set[int] = set()
    for found in findings:
        for label in found.poisoned:
            if label not in decided:
                decided.add(label)
                rows = labels == label
                is_clean[rows] = found.is_clean[rows]
    return is_clean


def build(
    findings: Sequence[Findings], is_clean: NDArray[np.bool_], *, truth: NDArray[np.bool_] | None, **about: Any
) -> ScanReport:
    """The report of what the detectors found; `about` holds the fields that the findings lack, such as the seed."""
    names = {found.label: found.name for found in findings[0].classes}
    poisoned = sorted({label for found in findings for label in found.poisoned})
    methods = [
        MethodReport(found.method, [names[label] for label in found.poisoned], list(found.classes), found.confusion)
        for found in findings
    ]
    judged = len(unjudged(methods)) < len(methods[0].classes)
    return ScanReport(
        format=FORMAT,
        verdict="poison" if poisoned else "clean" if judged else "cannot tell",
        suspicious_samples=int((~is_clean).sum()),
        poisoned_classes=[names[label] for label in poisoned],
        methods=methods,
        confusion=None if truth is None else confusion(is_clean, truth),
        **about,
    )
