"""Activation clustering: clean and poisoned samples of one label form different clusters in the last hidden layer.

Paper: Chen et al. 2018, arXiv:1811.03728.   Known to beat it: low poison rates, triggers made to look alike in the last layer
(docs/defences/activation-clustering.md).
Maths: per class, activations reduced to ten dimensions (PCA or ICA) in two views, split in two (`defences.poison.class_split`). Where
the density between the clusters has a deep valley, two tests decide (`defences.poison.second_look`): exclusionary reclassification by a
linear classifier on an earlier layer, and the share of each cluster whose predicted class changes when one patch is covered. Neither the
size nor the silhouette of a cluster decides: natural clusters have any size, and the two of MNIST's digit 1 are as far apart as a
backdoor's.
Shapes: activations [n, d], labels [n] -> is_clean bool [n] and scores [n].
Cost: a forward pass per sample, another up to an earlier layer for 4,000 samples, and 43 for each of 64 samples of a class whose
clusters are apart.
Patents: US 11,188,789, 11,487,963, 11,645,515 (IBM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidParameter
from defences.poison.class_split import ClassSplit, Reduction, split_class
from defences.poison.findings import Each, Findings, Positions, TrainingSet, in_turn
from defences.poison.second_look import Limits, Suspicion, look_again
from defences.poison.verdicts import class_findings, whole
from defences.poison.within_class import WithinClasses, within_classes

_ROUNDS = 3
_LOOKED_AT_AGAIN = 0.55  # the largest valley that separates clusters; above it the split is an artefact of cutting in two


@dataclass(frozen=True, kw_only=True)
class ActivationClustering:
    """A detector of poisoned training data: the module's docstring has its method.

    Args:
        dimensions: of the reduced space, >= 2.
        reduction: "pca" or "ica".
        valley_at_most: in [0, 1]; exclusionary reclassification decides only where the density between the clusters, over the lower of
            their peaks, is at most this.
        own_at_most: in [0, 1]; one cluster is poison when at most this share of the other, left out of training, keeps its class.
        seed: of all random draws; two runs with one seed agree.
    """

    dimensions: int = 10
    reduction: Reduction = "pca"
    valley_at_most: float = 0.4
    own_at_most: float = 0.035
    seed: int = 0

    name: str = field(default="activation_clustering", init=False)

    def __post_init__(self) -> None:
        if self.dimensions < 2:
            raise InvalidParameter(f"expected dimensions >= 2, got {self.dimensions}")
        if self.reduction not in ("pca", "ica"):
            raise InvalidParameter(f"expected reduction pca or ica, got {self.reduction!r}")
        for name in ("valley_at_most", "own_at_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidParameter(f"expected {name} in [0, 1], got {getattr(self, name)}")

    def detect(self, data: TrainingSet, *, each: Each = in_turn) -> Findings:
        """See `PoisonDetector.detect`."""
        classes = len(data.classes)
        within = within_classes(data.activations, data.labels, classes, seed=self.seed)
        rows = [data.rows_of(label) for label in range(classes)]
        splits, looks = self._looked_at(data, within, rows, range(classes), "splitting classes", each)
        found = [class_findings(data, label, len(rows[label]), splits[label], looks.get(label)) for label in range(classes)]
        left = [some if (look := looks.get(at)) is None else _unpoisoned(some, splits[at], look) for at, some in enumerate(rows)]
        poisoned = [label for label, look in looks.items() if look.poison is not None]
        for again in range(_ROUNDS):
            # Poison made from several classes can form several clusters, and a split in two separates only one of them.
            more, looks_again = self._looked_at(data, within, left, poisoned, f"splitting again {again}", each)
            poisoned = [label for label, look in looks_again.items() if look.poison is not None]
            if not poisoned:
                break
            for label in poisoned:
                left[label] = _unpoisoned(left[label], more[label], looks_again[label])
        return whole(self.name, data, rows, splits, found, left)

    def _looked_at(
        self, data: TrainingSet, within: WithinClasses, rows: Sequence[Positions], labels: Sequence[int], what: str, each: Each
    ) -> tuple[dict[int, ClassSplit | None], dict[int, Suspicion]]:
        """The split of the samples `rows` of each class in `labels`, and the second look at every split with a deep valley."""
        calls = ((within.reduced[rows[label]], within.shared(label), self, label) for label in labels)
        splits: dict[int, ClassSplit | None] = dict(zip(labels, each(what, split_one, calls), strict=True))
        suspects = {at: split for at, split in splits.items() if split is not None and (split.valley or 0) <= _LOOKED_AT_AGAIN}
        limits = Limits(own_at_most=self.own_at_most, valley_at_most=self.valley_at_most)
        return splits, look_again(data, rows, suspects, limits=limits, seed=self.seed) if suspects else {}


def _unpoisoned(rows: Positions, split: ClassSplit | None, look: Suspicion) -> Positions:
    """The positions of a class without those of its poisoned cluster."""
    return rows if split is None or look.poison is None else rows[~split.parts[look.poison]]


def split_one(
    reduced: NDArray[np.floating], shared: NDArray[np.float64] | None, how: ActivationClustering, label: int
) -> ClassSplit | None:
    """The two clusters of one class; a module-level function, so that it can be pickled and sent to another process."""
    seed = int(np.random.SeedSequence([how.seed, label]).generate_state(1)[0])
    return split_class(reduced, shared, dimensions=how.dimensions, reduction=how.reduction, seed=seed)
