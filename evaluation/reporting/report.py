"""report.json: all measurements in one document; the classes below are its schema.

Two runs with the same bundle, data, seed, budget and number of threads differ only in `created`, `seconds`, `latency` and the
milliseconds of `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from evaluation.reporting.verdict import Verdict, verdict
from evaluation.statistics.intervals import Share, share
from evaluation.tables.distrust import Check, checks
from evaluation.tables.evasion import ADAPTIVE, CLEAN, JSMA, NOISE, OBLIVIOUS, QUERY, TRANSFER, UNBLURRED, WITH_SECRET
from evaluation.tables.outcomes import Outcomes, Robustness, robustness, worst

FORMAT = 1

KNOWS = {
    CLEAN: "no attack",
    NOISE: "nothing: random signs of the same norm",
    **dict.fromkeys((*OBLIVIOUS, JSMA), "the classifier, not that it is defended"),
    TRANSFER: "other images of the same kind",
    **dict.fromkeys(QUERY, "the gateway's answers, refusals among them"),
    UNBLURRED: "the answers, and the reverse sigmoid's formula and parameters",
    ADAPTIVE: "classifier and defences, not the secret",
    WITH_SECRET: "everything, the secret too",
}
"""The knowledge of each attacker."""


@dataclass(frozen=True)
class EvasionRow:
    """An attack against a variant: the bare classifier, one defence, or all of them.

    Attributes:
        eps: L-inf radius; none for clean images and for JSMA, which changes a tenth of the pixels without a bound.
        mean_l2: mean L2 norm of the change.
    """

    attack: str
    knows: str
    eps: float | None
    variant: str
    robustness: Robustness
    mean_l2: float


@dataclass(frozen=True)
class Cost:
    """Forward and backward passes of an attack at a radius, summed over images and over the variants it was run against."""

    attack: str
    eps: float | None
    queries: int
    gradients: int


@dataclass(frozen=True)
class WorstRow:
    """Robustness when each image meets the attack of this radius that works best on it."""

    eps: float
    variant: str
    robustness: Robustness


@dataclass(frozen=True)
class CurvePoint:
    """Shares of images answered wrongly and refused at a radius."""

    eps: float
    variant: str
    kind: str
    wrong: Share
    abstained: Share


@dataclass(frozen=True)
class Latency:
    """Milliseconds per request of one image, in the evaluating process and without HTTP."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class BenignRow:
    """Accuracy, refusals and latency of a variant on clean images.

    Attributes:
        accuracy: share of all images answered rightly; an abstention counts as wrong.
        accuracy_on_answered: share of the answered images answered rightly.
        calibration_error: expected calibration error of the returned probabilities, 15 bins.
    """

    variant: str
    accuracy: Share
    accuracy_on_answered: Share
    abstained: Share
    calibration_error: float
    model_calls_per_image: float
    latency: Latency


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        bundle: name, version, input_shape, classes, and defences with their modes.
        data: file, sha256, split, rows, and the number of images attacked, held back and left to the attackers.
        budget: name and limits of the budget.
        left_out: attacks and sections that needed more images than there were, or gradients or training that the classifier lacks, with
            the reason.
        capabilities: of the classifier: engine, activations, gradients ("own", "twin" or none), training.
        seconds: duration of this run, without the results reused from an earlier one.
        warnings: what makes the figures doubtful: a classifier far less right than the data allow, data it was calibrated on.
    """

    format: int
    hauberk: str
    created: str
    seconds: float
    bundle: dict[str, Any]
    data: dict[str, Any]
    budget: dict[str, Any]
    seed: int
    radii: list[float]
    left_out: dict[str, str]
    benign: list[BenignRow]
    evasion: list[EvasionRow]
    costs: list[Cost]
    worst_case: list[WorstRow]
    verdict: Verdict
    curves: list[CurvePoint]
    backdoors: list[dict[str, Any]]
    extraction: list[dict[str, Any]]
    membership: list[dict[str, Any]]
    checks: list[Check]
    warnings: list[str] = field(default_factory=list)
    capabilities: dict[str, Any] = field(default_factory=dict)

    def left_out_by_reason(self) -> dict[str, str]:
        """The reasons for what was left out, each with all that it is the reason for."""
        reasons = dict.fromkeys(self.left_out.values())
        return {reason: ", ".join(name for name, why in self.left_out.items() if why == reason) for reason in reasons}


REPORT = TypeAdapter(Report)
"""Reads, writes and describes reports: `REPORT.json_schema()`."""


def build(results: Mapping[str, Mapping[str, Any]], *, classes: int, **about: Any) -> Report:
    """The report of an evaluation's results; `about` holds the fields that the results lack, such as the seed."""
    return Report(
        format=FORMAT,
        **about,
        benign=[_benign(variant, row) for variant, row in results["benign"].items()],
        evasion=evasion_rows(results["evasion"]),
        costs=costs(results["evasion"]),
        worst_case=worst_rows(results["evasion"]),
        verdict=verdict(results),
        curves=[point for cell in results["curves"].values() for point in _curve(cell)],
        backdoors=list(results.get("backdoors", {}).values()),
        extraction=[row for rows in results.get("extraction", {}).values() for row in rows],
        membership=[row for rows in results.get("membership", {}).values() for row in rows],
        checks=checks(results, classes=classes),
    )


def evasion_rows(cells: Mapping[str, Any]) -> list[EvasionRow]:
    """One row per attack, radius and variant."""
    return [
        EvasionRow(
            cell["attack"],
            KNOWS[cell["attack"]],
            cell["eps"],
            variant,
            robustness(np.array(found)),
            cell["mean_l2"],
        )
        for cell in cells.values()
        for variant, found in cell["outcomes"].items()
    ]


def costs(cells: Mapping[str, Any]) -> list[Cost]:
    """One row per attack and radius."""
    spent: dict[tuple[str, float | None], list[int]] = {}
    for cell in cells.values():
        total = spent.setdefault((cell["attack"], cell["eps"]), [0, 0])
        total[0] += cell["queries"]
        total[1] += cell["gradients"]
    return [Cost(attack, eps, queries, gradients) for (attack, eps), (queries, gradients) in spent.items()]


def worst_rows(cells: Mapping[str, Any]) -> list[WorstRow]:
    """One row per radius and variant, over all attacks within the radius and the unchanged image."""
    found: dict[tuple[float, str], list[Outcomes]] = {}
    clean = cells[CLEAN]["outcomes"]
    for cell in cells.values():
        if cell["eps"] is not None:
            for variant, some in cell["outcomes"].items():
                found.setdefault((cell["eps"], variant), [np.array(clean[variant])]).append(np.array(some))
    return [WorstRow(eps, variant, robustness(worst(many))) for (eps, variant), many in found.items()]


def _share(hits: int, of: int) -> Share:
    return share(np.arange(of) < hits)


def _benign(variant: str, row: Mapping[str, Any]) -> BenignRow:
    images, right, abstained = row["images"], row["right"], row["abstained"]
    return BenignRow(
        variant,
        _share(right, images),
        _share(right, images - abstained),
        _share(abstained, images),
        row["calibration_error"],
        row["model_calls_per_image"],
        Latency(**row["latency"]),
    )


def _curve(cell: Mapping[str, Any]) -> list[CurvePoint]:
    return [
        CurvePoint(cell["eps"], variant, kind, _share(row["wrong"], row["images"]), _share(row["abstained"], row["images"]))
        for variant, kinds in cell["variants"].items()
        for kind, row in kinds.items()
    ]
