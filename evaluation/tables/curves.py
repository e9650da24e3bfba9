"""Success versus eps: of an attacker who does not know the defences, of one who does, and of random noise of the same norm; where the
classifier has no gradients, of one who trained a classifier of their own, and of noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attacks.attack import Adversarial, Goal
from attacks.evasion.transfer import Relentless
from evaluation.cells import Cell
from evaluation.tables.evasion import EvasionTable, gradient_attack
from evaluation.tables.outcomes import ABSTAINED, WRONG, Outcomes, outcomes
from models.classifier import DifferentiableClassifier

SECTION = "curves"
_STEPS = 4  # beside one attack, in processor time, as measured
NOISE, OBLIVIOUS, ADAPTIVE, TRANSFER = "noise", "oblivious", "adaptive", "transfer"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Experiments at evenly spaced radii, up to one at which an effective attack succeeds on nearly every image."""

    evasion: EvasionTable
    eps_at_most: float

    def cells(self) -> Iterator[Cell]:
        """One cell per radius, with every stack of defences."""
        for eps in self.radii():
            yield Cell(SECTION, f"{eps:g}", partial(self._at, eps), _STEPS)

    def radii(self) -> tuple[float, ...]:
        """The radii, evenly spaced; the last is `eps_at_most`."""
        points = self.evasion.budget.curve_points
        return tuple(float(np.round(self.eps_at_most * (i + 1) / points, 5)) for i in range(points))

    def _at(self, eps: float) -> dict[str, Any]:
        labels, known = self.evasion.data.labels, self.evasion.target.gradients
        crafted = self._crafted(eps, known)
        rows = {}
        for name, defended in self.evasion.target.variants.items():
            sent = {kind: found.images for kind, found in crafted.items()}
            if known is not None:
                sent[ADAPTIVE] = self.evasion.adversarial(eps, name, steps=self.evasion.budget.steps).images
            rows[name] = {kind: _counts(outcomes(defended, images, labels)) for kind, images in sent.items()}
        return {"eps": eps, "variants": rows}

    def _crafted(self, eps: float, known: DifferentiableClassifier | None) -> dict[str, Adversarial]:
        """The images that every variant is sent, by kind of attacker."""
        evasion = self.evasion
        found = {NOISE: evasion.noise(eps)}
        if known is not None:
            attack = gradient_attack("pgd", eps, evasion.budget)
            found[OBLIVIOUS] = attack(Relentless(known), evasion.data.images, Goal(evasion.data.labels), seed=evasion.seed)
        elif len(evasion.others):
            found[TRANSFER] = evasion.transferred(eps)
        return found


def _counts(found: Outcomes) -> dict[str, int]:
    return {"images": len(found), "wrong": int((found == WRONG).sum()), "abstained": int((found == ABSTAINED).sum())}
