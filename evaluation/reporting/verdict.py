"""The verdict of an evaluation: what each defence gains and costs on this bundle, each with its interval, and which are worth it.

A gain is a fall in what attackers get: wrong answers in the worst case of each radius, triggered images answered with the attacker's
label, agreement of the best stolen copy. It counts where its 95 % interval is above 0; where it is not, no difference is measurable.
Maths: with b images that only the undefended classifier gets wrong and c that only the defended one does, of n, the difference is
(b - c) / n; its interval is the exact one of b / (b + c) (Clopper-Pearson), which excludes 0 where McNemar's exact test rejects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.statistics.intervals import clopper_pearson
from evaluation.tables.evasion import CLEAN, FOLLOW_GRADIENTS
from evaluation.tables.outcomes import ABSTAINED, RIGHT, WRONG, worst
from evaluation.variants import FULL_STACK, UNDEFENDED

_NORMAL = 1.96
_CONFIDENCE = 0.95
_BLIND = (
    " This is the black-box half of an evaluation: no attack followed the classifier's gradients, so it claims no robustness against an "
    "attacker who has the model, whatever the worst case of the attacks tried shows."
)


@dataclass(frozen=True)
class Difference:
    """A difference of two shares in [-1, 1] and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} points ({100 * self.low:.1f} to {100 * self.high:.1f})"


@dataclass(frozen=True)
class Gain:
    """What attackers of one kind get without and with a defence, shares in [0, 1], and by how much less."""

    against: str
    without: float
    defended: float
    less: Difference

    @property
    def measurable(self) -> bool:
        """Whether the defence helps beyond chance."""
        return self.less.low > 0


@dataclass(frozen=True)
class Worth:
    """The gains and costs of one defence, or of all of them.

    Attributes:
        accuracy_lost: on clean images; a refusal counts as lost.
        refused: share of clean images.
        more_ms, more_calls: per image, median and mean, beside those of the undefended classifier.
        worth: whether any gain is measurable.
    """

    variant: str
    gains: list[Gain]
    accuracy_lost: Difference
    refused: float
    more_ms: float
    more_calls: float
    worth: bool


@dataclass(frozen=True)
class Verdict:
    """The verdict: a paragraph to show first, what each variant gains and costs, and what the worst case leaves out."""

    summary: str
    variants: list[Worth]
    left_out_of_the_worst_case: str


def verdict(results: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """The verdict on the results of an evaluation, by section and cell."""
    benign = results["benign"]
    found = [_worth(results, variant) for variant in benign if variant != UNDEFENDED]
    blind = not followed_gradients(results["evasion"])
    without_radius = sorted({cell["attack"] for cell in results["evasion"].values() if cell["eps"] is None} - {CLEAN})
    outside = f"{', '.join(without_radius)} (bounded in the number of pixels, not in eps), " if without_radius else ""
    outside += "every attack that follows gradients, " if blind else ""
    return Verdict(
        _summary(found) + (_BLIND if blind else ""),
        found,
        f"the worst case of a radius is over the attacks within that radius and the unchanged image; it leaves out {outside}other "
        "norms, patches, rotations, and attackers with more queries or steps than the budget",
    )


def followed_gradients(cells: Mapping[str, Any]) -> bool:
    """Whether any attack of the evasion table had the classifier's gradients."""
    return any(cell["attack"] in FOLLOW_GRADIENTS for cell in cells.values())


def paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Difference:
    """share(before) - share(after) of the same images, with its interval.

    >>> str(paired(np.arange(100) < 30, np.arange(100) < 10))
    '20.0 points (13.3 to 20.0)'
    """
    n, fell, rose = len(before), int((before & ~after).sum()), int((~before & after).sum())
    if fell + rose == 0:
        reach = float(clopper_pearson(np.array([0]), n, _CONFIDENCE)[1][0]) if n else 1.0
        return Difference(0.0, -reach, reach)
    low, high = (float(end[0]) for end in clopper_pearson(np.array([fell]), fell + rose, _CONFIDENCE))
    part = (fell + rose) / n
    return Difference((fell - rose) / n, (2 * low - 1) * part, (2 * high - 1) * part)


def _worth(results: Mapping[str, Mapping[str, Any]], variant: str) -> Worth:
    plain, defended = results["benign"][UNDEFENDED], results["benign"][variant]
    gains = [*_evasion(results["evasion"], variant), *_backdoors(results, variant), *_extraction(results, variant)]
    right = [np.array(row["outcomes"]) == RIGHT for row in (plain, defended)]
    return Worth(
        variant,
        gains,
        paired(*right),
        float((np.array(defended["outcomes"]) == ABSTAINED).mean()),
        defended["latency"]["p50_ms"] - plain["latency"]["p50_ms"],
        defended["model_calls_per_image"] - plain["model_calls_per_image"],
        any(gain.measurable for gain in gains),
    )


def _evasion(cells: Mapping[str, Any], variant: str) -> Iterator[Gain]:
    """Wrong answers in the worst case of each radius."""
    kind = "evasion" if followed_gradients(cells) else "black-box evasion"
    for eps in sorted({cell["eps"] for cell in cells.values() if cell["eps"] is not None}):
        wrong = []
        for stack in (UNDEFENDED, variant):
            within = (cell["outcomes"] for cell in (cells[CLEAN], *cells.values()) if cell["eps"] == eps or cell is cells[CLEAN])
            wrong.append(worst([np.array(outcomes[stack]) for outcomes in within if stack in outcomes]) == WRONG)
        before, after = wrong
        yield Gain(f"{kind} at eps {eps:.3g}", float(before.mean()), float(after.mean()), paired(before, after))


def _backdoors(results: Mapping[str, Mapping[str, Any]], variant: str) -> Iterator[Gain]:
    """Triggered images that get the attacker's label, or, of one detector, those that pass it."""
    for row in results.get("backdoors", {}).values():
        if variant == FULL_STACK:
            yield _unpaired(f"backdoor {row['kind']}", row["success"], row["answered"])
        for one in row["detectors"]:
            if one["name"] == variant:
                passed = {"rate": 1 - one["refused_triggered"]["rate"], "of": one["refused_triggered"]["of"]}
                clean = {"rate": 1 - one["refused_clean"]["rate"], "of": one["refused_clean"]["of"]}
                yield _unpaired(f"backdoor {row['kind']}", clean, passed)


def _extraction(results: Mapping[str, Mapping[str, Any]], variant: str) -> Iterator[Gain]:
    """Agreement of the best copy."""
    best: dict[str, tuple[float, float]] = {}
    for row in (row for rows in results.get("extraction", {}).values() for row in rows):
        best[row["victim"]] = max(best.get(row["victim"], (0.0, 0.0)), (row["agreement"], row["agreement_error"]))
    if UNDEFENDED in best and variant in best:
        (before, error), (after, other) = best[UNDEFENDED], best[variant]
        reach = _NORMAL * float(np.hypot(error, other))
        yield Gain("extraction", before, after, Difference(before - after, before - after - reach, before - after + reach))


def _unpaired(against: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Gain:
    """Of different images: the ends of the intervals of both shares, taken against each other."""
    ends = [clopper_pearson(np.array([round(row["rate"] * row["of"])]), row["of"], _CONFIDENCE) for row in (before, after)]
    (low, high), (other_low, other_high) = ((float(end[0]) for end in both) for both in ends)
    value = before["rate"] - after["rate"]
    return Gain(against, before["rate"], after["rate"], Difference(value, low - other_high, high - other_low))


def _summary(found: Sequence[Worth]) -> str:
    if not found:
        return "This bundle has no defences: nothing is gained, and nothing is paid."
    every = found[-1]
    gains = "; ".join(_said(gain) for gain in every.gains)
    lost = every.accuracy_lost
    price = f"{lost} of clean accuracy" if lost.low > 0 else "no measurable clean accuracy"
    cost = f"{price}, {100 * every.refused:.1f} % of clean images refused, {max(every.more_ms, 0):.2f} ms more per image"
    alone = [one for one in found if one.variant != FULL_STACK]
    kept = "; ".join(f"{one.variant} ({', '.join(_targets(one))})" for one in alone if one.worth)
    rest = ", ".join(one.variant for one in alone if not one.worth)
    worth = f"Worth considering here, alone: {kept}." if kept else "No defence alone gained anything measurable here."
    return f"All defences together cost {cost}. What they gain: {gains}. {worth}" + (
        f" No gain measured: {rest}." if kept and rest else ""
    )


def _said(gain: Gain) -> str:
    if not gain.measurable:
        harm = ", and they may do harm" if gain.less.high < 0 else ""
        return f"{gain.against}, no difference measurable in their favour ({_shares(gain)}){harm}"
    return f"{gain.against}, {gain.less} less for the attacker ({_shares(gain)})"


def _shares(gain: Gain) -> str:
    return f"{100 * gain.without:.1f} % without, {100 * gain.defended:.1f} % with"


def _targets(one: Worth) -> list[str]:
    """The kinds of attack against which it helps, backdoors together."""
    kinds = [gain.against for gain in one.gains if gain.measurable]
    backdoors = sum(kind.startswith("backdoor") for kind in kinds)
    rest = [kind for kind in kinds if not kind.startswith("backdoor")]
    return [*rest, f"{backdoors} backdoor{'s' if backdoors > 1 else ''}"] if backdoors else rest
