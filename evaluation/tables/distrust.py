"""Checks of the evaluation itself: signs that an attack failed, so that a defence only seems to hold.

After Carlini et al. 2019, arXiv:1902.06705, Tramer et al. 2020, arXiv:2002.08347, and the checks of AutoAttack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.gradient import zero_gradient_share
from attacks.evasion.vanished import ZERO_AT_MOST
from evaluation.cells import Cell
from evaluation.tables.evasion import ADAPTIVE, QUERY, WITH_SECRET, EvasionTable
from evaluation.tables.outcomes import WRONG, outcomes
from evaluation.variants import FULL_STACK, UNDEFENDED
from models.classifier import DifferentiableClassifier

SECTION = "distrust"
_SAME_WITHIN = 0.02
_ERRORS = 2.0
_LARGE_EPS = 1.0


@dataclass(frozen=True)
class Check:
    """One check: the property that should hold, whether it does, and the figures."""

    name: str
    fine: bool
    found: str


@dataclass(frozen=True, kw_only=True)
class Distrust:
    """Experiments that check the attacks of the other tables."""

    evasion: EvasionTable
    threads: int

    def cells(self) -> Iterator[Cell]:
        """One cell per experiment; without gradients, of the one that needs none."""
        yield Cell(SECTION, "randomness", self._randomness)
        known = self.evasion.target.gradients
        if known is not None:
            yield Cell(SECTION, "zero gradients", partial(self._zero_gradients, known))
            yield Cell(SECTION, "twice the iterations", self._twice)
            yield Cell(SECTION, "large eps", self._large)

    def _randomness(self) -> dict[str, float]:
        """The share of images whose answer changes on repetition, and the share whose answer changes under another secret."""
        target, images = self.evasion.target, self.evasion.data.images
        first, second = (target.full_stack.classify(images).labels for _ in range(2))
        other = target.under(target.secret[::-1] + b"other")
        return {
            "changed_on_repetition": float((first != second).mean()),
            "changed_under_another_secret": float((other.classify(images).labels != first).mean()),
        }

    def _zero_gradients(self, known: DifferentiableClassifier) -> dict[str, float]:
        """The share of images whose loss has a zero gradient, on which a gradient attack makes no step: of the bare classifier, and
        through all of its defences."""
        data, target = self.evasion.data, self.evasion.target
        through = AdaptiveView(target.full_stack, known, draws=1, overlays=1, seed=self.evasion.seed)
        return {
            "share": zero_gradient_share(known, data.images, data.labels),
            "through_defences": zero_gradient_share(through, data.images, data.labels),
        }

    def _twice(self) -> dict[str, float]:
        """Robust accuracy of the full stack under the adaptive attack, with the stated and with twice the iterations."""
        steps = self.evasion.budget.steps
        eps = self.evasion.radii[0]
        once, twice = (self._robust(eps, steps=n) for n in (steps, 2 * steps))
        return {"eps": eps, "iterations": steps, "once": once, "twice": twice}

    def _large(self) -> dict[str, float]:
        """Robust accuracy where eps allows any image: more than chance means that the attack failed."""
        return {
            name: self._robust(_LARGE_EPS, steps=self.evasion.budget.steps, variant=name) for name in (UNDEFENDED, FULL_STACK)
        }

    def _robust(self, eps: float, *, steps: int, variant: str = FULL_STACK) -> float:
        data = self.evasion.data
        found = self.evasion.adversarial(eps, variant, steps=steps)
        return float((outcomes(self.evasion.target.variants[variant], found.images, data.labels) != WRONG).mean())


def checks(results: Mapping[str, Mapping[str, Any]], *, classes: int) -> list[Check]:
    """The verdicts on these experiments, and on the consistency of the evasion table."""
    random = results[SECTION]["randomness"]
    repeated = Check(
        "the same image gets the same answer twice",
        random["changed_on_repetition"] == 0,
        f"{random['changed_on_repetition']:.1%} changed; {random['changed_under_another_secret']:.1%} under another secret",
    )
    if "zero gradients" not in results[SECTION]:
        return [repeated, Check("attacks that follow gradients were tried", False, "none was: the classifier has no gradients")]
    return [repeated, *_on_gradients(results, classes)]


def _on_gradients(results: Mapping[str, Mapping[str, Any]], classes: int) -> list[Check]:
    """The verdicts that attacks with gradients allow."""
    zero, twice, large = (results[SECTION][name] for name in ("zero gradients", "twice the iterations", "large eps"))
    n = len(results["evasion"]["clean"]["outcomes"][UNDEFENDED])
    noise = _ERRORS * float(np.sqrt(0.25 / n))
    chance = 1 / classes + noise
    return [
        Check(
            "gradients are not zero",
            max(zero.values()) <= ZERO_AT_MOST,
            f"{zero['share']:.1%} of images have none, {zero['through_defences']:.1%} through the defences",
        ),
        Check(
            "twice the iterations do not succeed more often",
            twice["once"] - twice["twice"] <= max(_SAME_WITHIN, noise / 2),
            f"robust accuracy {twice['once']:.1%} with {twice['iterations']} and {twice['twice']:.1%} with "
            f"{2 * twice['iterations']} iterations, eps {twice['eps']:g}, full stack",
        ),
        Check(
            "no robust accuracy is left where eps allows any image",
            max(large.values()) <= chance,
            ", ".join(f"{name}: {value:.1%}" for name, value in large.items()),
        ),
        *_white_box_is_best(results["evasion"], noise),
        *_iterations_help(results["evasion"], noise),
    ]


def _white_box_is_best(evasion: Mapping[str, Any], noise: float) -> list[Check]:
    """An attacker who knows more must not do worse: a query attack that beats the adaptive one shows a weak gradient."""
    safe = _safe_shares(evasion)
    worse = [
        f"{variant} at eps {eps:g}: {name} {safe[name, eps, variant]:.1%} < adaptive {adaptive:.1%}"
        for (kind, eps, variant), adaptive in safe.items()
        if kind == ADAPTIVE
        for name in QUERY
        if safe[name, eps, variant] < min(adaptive, safe[WITH_SECRET, eps, variant]) - noise
    ]
    return [Check("no query attack beats the adaptive one", not worse, "; ".join(worse) or "none does")]


def _iterations_help(evasion: Mapping[str, Any], noise: float) -> list[Check]:
    safe = _safe_shares(evasion)
    worse = [
        f"eps {eps:g}: pgd {value:.1%} > fgm {safe['fgm', eps, UNDEFENDED]:.1%}"
        for (kind, eps, variant), value in safe.items()
        if kind == "pgd" and variant == UNDEFENDED and value > safe["fgm", eps, UNDEFENDED] + noise
    ]
    return [Check("many steps succeed at least as often as one", not worse, "; ".join(worse) or "they do")]


def _safe_shares(evasion: Mapping[str, Any]) -> dict[tuple[str, float, str], float]:
    """Robust accuracy with an abstention counted as safe, by attack, radius and stack of defences."""
    return {
        (cell["attack"], cell["eps"], variant): float((np.array(found) != WRONG).mean())
        for cell in evasion.values()
        for variant, found in cell["outcomes"].items()
        if cell["eps"] is not None
    }
