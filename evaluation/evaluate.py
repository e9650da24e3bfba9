"""The whole evaluation: the split of the images, and the cells of every table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.budget import Budget
from evaluation.cells import Cell, Cells
from evaluation.tables.benign import Benign
from evaluation.tables.curves import Curves
from evaluation.tables.distrust import Distrust
from evaluation.tables.evasion import EvasionTable
from evaluation.tables.stand_ins import StandIns
from evaluation.variants import Target
from models.datasets import Dataset
from models.errors import InvalidInput
from models.progress import Progress, silent

IMAGES_AT_LEAST = 20
# For the thief, the transfer attacker and the poisoned copies, beside the images attacked and held back.
OTHERS_AT_LEAST = 600
_CURVE_OVER_RADIUS = 5 / 3
_ONLY_SHOWN = ("report", "page", "plots")
_LAYERS = ("attacks", "defences", "evaluation", "models")


def _code_digest() -> str:
    """sha256 of the sources that determine results, so that results of another version are not reused."""
    root = Path(__file__).parents[1]
    files = sorted(file for layer in _LAYERS for file in (root / layer).rglob("*.py") if file.stem not in _ONLY_SHOWN)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True)
class Parts:
    """The data, shuffled and split into disjoint parts: attacked, held back to measure on, and left to the attackers."""

    attacked: Dataset
    held: Dataset
    others: Dataset


def split(data: Dataset, budget: Budget, seed: int) -> Parts:
    """Split for a budget: images to attack first, then at most half of the rest held back. Raises: InvalidInput: too few images."""
    if len(data) < IMAGES_AT_LEAST:
        raise InvalidInput(f"expected at least {IMAGES_AT_LEAST} images to evaluate on, got {len(data)}")
    order = np.random.default_rng(seed).permutation(len(data))
    attacked = min(budget.images, len(data))
    held = min(budget.benign_images, (len(data) - attacked) // 2)
    parts = np.split(order, [attacked, attacked + held])
    return Parts(*(data.take(rows) for rows in parts))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The experiments on one bundle.

    Args:
        target: the bundle with every stack of defences.
        data: labelled images outside the training set of the classifier.
        radii: eps of the L-inf attacks.
        budget: one of `BUDGETS`, or another.
        data_digest: sha256 of the data, part of the plan.
        threads: for training.
    """

    target: Target
    data: Dataset
    radii: tuple[float, ...]
    budget: Budget
    seed: int
    data_digest: str
    threads: int

    @cached_property
    def parts(self) -> Parts:
        return split(self.data, self.budget, self.seed)

    @property
    def left_out(self) -> dict[str, str]:
        """Sections left out because there are too few images, with the reason, which the report states."""
        others = len(self.parts.others)
        if others >= OTHERS_AT_LEAST:
            return {}
        reason = f"needs {OTHERS_AT_LEAST} images beside those attacked and held back, got {others}; give more images or a smaller budget"
        return dict.fromkeys(("transfer", "backdoors", "extraction", "membership"), reason)

    def cells(self) -> Iterator[Cell]:
        """Every cell, the quick sections first."""
        parts, budget = self.parts, self.budget
        evasion = EvasionTable(
            target=self.target,
            data=parts.attacked,
            others=parts.others.take(slice(0, 0)) if self.left_out else parts.others,
            radii=self.radii,
            budget=budget,
            seed=self.seed,
            threads=self.threads,
        )
        clean = parts.held if len(parts.held) else parts.attacked
        yield from Benign(target=self.target, data=clean, timed=budget.timed).cells()
        yield from evasion.cells()
        yield from Curves(evasion=evasion, eps_at_most=max(self.radii) * _CURVE_OVER_RADIUS).cells()
        yield from Distrust(evasion=evasion, threads=self.threads).cells()
        if not self.left_out:
            stand_ins = StandIns(target=self.target, others=parts.others, held=parts.held, budget=budget, seed=self.seed)
            yield from stand_ins.backdoors()
            yield from stand_ins.extraction()
            yield from stand_ins.membership()

    def plan(self) -> dict[str, Any]:
        """Everything that determines the results, the sources included."""
        return {
            "code": _code_digest(),
            "bundle": self.target.bundle.digest,
            "data": self.data_digest,
            "seed": self.seed,
            "radii": list(self.radii),
            "budget": asdict(self.budget),
            "threads": self.threads,
        }

    def run(self, out: Path, progress: Progress = silent) -> dict[str, dict[str, Any]]:
        """Results by section and cell; those of this or an earlier call that are stored below `out` are read from there."""
        return Cells(out, self.plan()).run(list(self.cells()), progress)
