"""Spectral signatures: poison varies as nothing else in its class does, and may be too rare to be a cluster.

Paper: Tran, Li & Madry 2018, arXiv:1811.00636, with the whitening of SPECTRE (Hayase et al. 2021, arXiv:2104.11315).   Known to beat it:
poison that is half of its class or more, which is no outlier (`defences.poison.activation_clustering` finds it), and
triggers spread over the
whole image.
Maths: per class, activations whitened by the covariance S within the other classes: score_i = (x_i - m)^T (S + f)^-1 (x_i - m), over all
directions. Tran's single top direction is that of the widest natural variation while poison is rare (docs/defences/spectral-signatures.md
has both). The paper removes the top 1.5 eps of every class, eps known. Here "no poison" is a verdict: the top samples are looked at again
(`defences.poison.second_look`), and are poison where one patch makes them leave the class and not the others. Then all
samples of the class with a
score over its median that leave under that patch are poison.
Shapes: activations [n, d], labels [n] -> is_clean bool [n] and scores [n].
Cost: a forward pass per sample, 43 for each of at most 64 of every class, one for each second sample of a poisoned class.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidParameter
from defences.poison.class_split import SAMPLES_AT_LEAST, ClassSplit
from defences.poison.findings import Each, Findings, Rows, TrainingSet, in_turn
from defences.poison.second_look import Limits, Suspicion, look_again
from defences.poison.trigger_removal import leaves
from defences.poison.verdicts import class_findings, whole
from defences.poison.within_class import whiten, within_classes

_TOP_AT_LEAST = 16
_ROWS_A_BATCH = 1024

_Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """See the module.

    Args:
        top: in (0, 0.5), the share of a class, highest scores first, that is looked at again; 16 samples at least.
        seed: of everything drawn; two runs agree.
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

    def _flagged(self, data: TrainingSet, label: int, rows: Rows, split: ClassSplit, look: Suspicion) -> NDArray[np.bool_]:
        """Which samples of a poisoned class are the poison."""
        if data.images is None or data.predict is None or look.patch is None:
            return split.second
        high = np.flatnonzero(split.position >= np.median(split.position))
        flagged = np.zeros(len(rows), bool)
        for start in range(0, len(high), _ROWS_A_BATCH):
            some = high[start : start + _ROWS_A_BATCH]
            flagged[some] = leaves(data.images(rows[some]), label, look.patch, data.predict)
        return flagged if flagged.any() else split.second


def outliers(centred: NDArray[np.floating], shared: _Matrix | None, top: float) -> ClassSplit | None:
    """The top scores of a class [n, r] against the rest of it; none for a class too small, or without others to compare with."""
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
