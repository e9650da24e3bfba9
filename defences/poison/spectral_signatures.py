"""Spectral signatures: poisoned samples are outliers of their class, even where they are too few to form a cluster.

Paper: Tran, Li & Madry 2018, arXiv:1811.00636, with the whitening of SPECTRE (Hayase et al. 2021, arXiv:2104.11315).   Known to beat it:
poison that is half of its class or more, which is no outlier (`defences.poison.activation_clustering` finds it), and triggers spread over
the whole image.
Maths: per class, activations whitened by the covariance S within the other classes: score_i = (x_i - m)^T (S + f)^-1 (x_i - m), over all
directions; the paper's single top direction is that of natural variation where poison is rare (docs/defences/spectral-signatures.md has
figures of both). The paper removes the top 1.5 eps of every class, eps known. Here a class may have no poison: its top samples get a
second look (`defences.poison.second_look`), and are poison where covering one patch changes their class and not that of the others.
Then every sample of the class with a score above the median whose class changes under that patch is poison.
Shapes: activations [n, d], labels [n] -> is_clean bool [n] and scores [n].
Cost: a forward pass per sample, 43 for each of at most 64 samples of every class, one for every second sample of a poisoned class.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidParameter
from defences.poison.class_split import SAMPLES_AT_LEAST, ClassSplit
from defences.poison.findings import Each, Findings, Positions, TrainingSet, in_turn
from defences.poison.second_look import Limits, Suspicion, look_again
from defences.poison.trigger_removal import class_changes
from defences.poison.verdicts import class_findings, whole
from defences.poison.within_class import whiten, within_classes

_TOP_AT_LEAST = 16
_ROWS_A_BATCH = 1024

_Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """A detector of poisoned training data: the module's docstring has its method.

    Args:
        top: in (0, 0.5), the share of a class, highest scores first, that gets a second look; 16 samples at least.
        seed: of all random draws; two runs with one seed agree.
    """

    top: float = 0.02
    seed: int = 0

    name: str = field(default="spectral_signatures", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.top < 0.5:
            raise InvalidParameter(f"expected top in (0, 0.5), got {self.top}")

    def detect(self, data: TrainingSet, *, each: Each = in_turn) -> Findings:
        """See `PoisonDetector.detect`."""
        classes = len(data.classes)
        within = within_classes(data.activations, data.labels, classes, seed=self.seed)
        rows = [data.rows_of(label) for label in range(classes)]
        calls = ((within.reduced[rows[label]], within.shared(label), self.top) for label in range(classes))
        splits: dict[int, ClassSplit | None] = dict(enumerate(each("scoring classes", outliers, calls)))
        suspects = {at: split for at, split in splits.items() if split is not None}
        looks = look_again(data, rows, suspects, limits=Limits(), seed=self.seed) if suspects else {}
        left = list(rows)
        for label, split in suspects.items():
            if looks[label].poison is not None:
                left[label] = rows[label][~self._flagged(data, label, rows[label], split, looks[label])]
        found = [class_findings(data, label, len(rows[label]), splits[label], looks.get(label)) for label in range(classes)]
        return whole(self.name, data, rows, splits, found, left)

    def _flagged(self, data: TrainingSet, label: int, rows: Positions, split: ClassSplit, look: Suspicion) -> NDArray[np.bool_]:
        """The poisoned samples of a class, bool [n]."""
        if data.images is None or data.predict is None or look.patch is None:
            return split.second
        high = np.flatnonzero(split.position >= np.median(split.position))
        flagged = np.zeros(len(rows), bool)
        for start in range(0, len(high), _ROWS_A_BATCH):
            some = high[start : start + _ROWS_A_BATCH]
            flagged[some] = class_changes(data.images(rows[some]), label, look.patch, data.predict)
        return flagged if flagged.any() else split.second


def outliers(centred: NDArray[np.floating], shared: _Matrix | None, top: float) -> ClassSplit | None:
    """The split of a class [n, r] into its top scores and the rest; None for a class that is too small, or without other classes."""
    if len(centred) < SAMPLES_AT_LEAST + _TOP_AT_LEAST or shared is None:
        return None
    whitened = whiten(centred.astype(np.float64), shared)
    scores = (whitened**2).sum(axis=1)
    second = np.zeros(len(scores), bool)
    second[np.argsort(-scores, kind="stable")[: max(_TOP_AT_LEAST, int(top * len(scores)))]] = True
    position = np.log(scores + 1e-12)
    spread = np.sqrt((position[second].var() + position[~second].var()) / 2)
    distance = float((position[second].mean() - position[~second].mean()) / max(float(spread), 1e-12))
    widest = np.linalg.eigh(whitened.T @ whitened)[1][:, -1]
    plane = np.stack([position, whitened @ widest], axis=1).astype(np.float32)
    return ClassSplit(second, position, distance, plane)
