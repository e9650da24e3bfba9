"""Success versus eps: of an attacker who does not know the defences, of one who does, and of random noise of the same norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attacks.attack import Goal
from attacks.evasion.transfer import Relentless
from evaluation.cells import Cell
from evaluation.tables.evasion import EvasionTable, gradient_attack
from evaluation.tables.outcomes import ABSTAINED, WRONG, Outcomes, outcomes

SECTION = "curves"
KINDS = ("noise", "oblivious", "adaptive")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Experiments at evenly spaced radii, up to one at which an effective attack succeeds on nearly every image."""

    evasion: EvasionTable
    eps_at_most: float

    def cells(self) -> Iterator[Cell]:
        """One cell per radius, with every stack of defences."""
        for eps in self.radii():
            yield Cell(SECTION, f"{eps:g}", partial(self._at, eps))

    def radii(self) -> tuple[float, ...]:
        """The radii, evenly spaced; the last is `eps_at_most`."""
        points = self.evasion.budget.curve_points
        return tuple(float(np.round(self.eps_at_most * (i + 1) / points, 5)) for i in range(points))

    def _at(self, eps: float) -> dict[str, Any]:
        evasion = self.evasion
        images, labels = evasion.data.images, evasion.data.labels
        bare = Relentless(evasion.target.classifier)
        crafted = gradient_attack("pgd", eps, evasion.budget)(bare, images, Goal(labels), seed=evasion.seed)
        rows = {}
        for name, defended in evasion.target.variants.items():
            adaptive = evasion.adversarial(eps, name, steps=evasion.budget.steps)
            sent = (evasion.noise(eps).images, crafted.images, adaptive.images)
            rows[name] = {kind: _counts(outcomes(defended, x, labels)) for kind, x in zip(KINDS, sent, strict=True)}
        return {"eps": eps, "variants": rows}


def _counts(found: Outcomes) -> dict[str, int]:
    return {"images": len(found), "wrong": int((found == WRONG).sum()), "abstained": int((found == ABSTAINED).sum())}
