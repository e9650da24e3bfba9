"""The input and the output of every detector of poisoned training data.

A detector is a function from a `TrainingSet` to `Findings`, and may find no poison in any class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput
from models.classifier import ActivationClassifier, Images, Labels, Probabilities
from models.datasets import Dataset

Positions = NDArray[np.int64]
"""int64 [m], positions of samples in the training set."""

Verdict = Literal["clean", "poison", "too few samples", "cannot tell"]

Each = Callable[[str, Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]
"""(name of the work, function, arguments of each call) -> results in order. It runs the work of each class, here or on a cluster."""


def in_turn(what: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run the calls in this process, one after the other."""
    return [function(*arguments) for arguments in calls]


_READ_AT_ONCE = 256


@dataclass(frozen=True)
class Witness:
    """Activations of the layer before the last feature map, or the pixels where there is none, a few images at a time.

    Args:
        images: rows -> float32 [m, h, w, c] in [0, 1].
    """

    classifier: ActivationClassifier
    images: Callable[[Positions], Images]

    def __call__(self, rows: Positions) -> NDArray[np.floating]:
        """float [m, d] of these samples; a forward pass per image up to that layer."""
        layer = self.classifier.earlier_layer()
        parts = []
        for start in range(0, max(1, len(rows)), _READ_AT_ONCE):
            images = self.images(rows[start : start + _READ_AT_ONCE])
            parts.append(images.reshape(len(images), -1) if layer is None else self.classifier.activations(images, layer))
        return np.concatenate(parts)


@dataclass(frozen=True)
class TrainingSet:
    """Training data as a detector reads them. Only `labels` must be in memory; the rest is read in parts.

    Attributes:
        activations: float [n, d], of the last hidden layer, in memory or a memory map.
        labels: int64 [n], as given, those of poison included.
        classes: the names of the classes.
        images: positions -> float32 [m, h, w, c] in [0, 1].
        witness: positions -> float [m, d'], activations of an earlier layer, which depend less on the label; `activations` are used where
            it is None.
        predict: images -> probabilities [m, k]; without it or without `images`, no detector can cover patches of images.
    """

    activations: NDArray[np.floating]
    labels: Labels
    classes: tuple[str, ...]
    images: Callable[[Positions], Images] | None = None
    witness: Callable[[Positions], NDArray[np.floating]] | None = None
    predict: Callable[[Images], Probabilities] | None = None

    def __post_init__(self) -> None:
        if self.activations.ndim != 2 or len(self.activations) != len(self.labels):
            raise InvalidInput(
                f"expected activations [n, d] of n = {len(self.labels)} labelled samples, got {list(self.activations.shape)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise InvalidInput(f"expected labels from 0 to {len(self.classes) - 1}, got {int(self.labels.max())}")

    @classmethod
    def of(cls, classifier: ActivationClassifier, data: Dataset) -> TrainingSet:
        """The training set of data in memory and the classifier trained on them; without an earlier layer the pixels are the witness.

        Cost: a forward pass per image at once, and another for every image of which a detector reads the witness layer.
        """

        def images(rows: Positions) -> Images:
            return data.images[rows]

        return cls(
            classifier.activations(data.images),
            data.labels,
            classifier.labels,
            images=images,
            witness=Witness(classifier, images),
            predict=classifier.predict,
        )

    def rows_of(self, label: int) -> Positions:
        """Positions of the samples of a class."""
        return np.flatnonzero(self.labels == label)

    def looked_at_again(self, rows: Positions) -> NDArray[np.floating]:
        """Activations [m, d'] of the witness layer; those of the last hidden layer without one."""
        return self.activations[rows] if self.witness is None else self.witness(rows)


@dataclass(frozen=True)
class Confusion:
    """Counts of a detector's decisions against the truth.

    Attributes:
        found, missed: poisoned samples flagged, and not flagged.
        flagged, passed: clean samples flagged, and not flagged.
        tpr: found / (found + missed); None without poison.
        fpr: flagged / (flagged + passed); None without clean samples.
    """

    found: int
    missed: int
    flagged: int
    passed: int
    tpr: float | None
    fpr: float | None


@dataclass(frozen=True)
class Cluster:
    """One of the two clusters of a class.

    Attributes:
        own: share that keeps its class under a classifier trained without the cluster; None where the clusters overlap.
        source: the most frequent other class under that classifier.
        margin: mean difference of its two best scores.
    """

    size: int
    share: float
    poison: bool
    own: float | None = None
    source: str | None = None
    margin: float | None = None


@dataclass(frozen=True)
class ClassFindings:
    """The verdict on one class.

    Attributes:
        reason: the ground for the verdict, one sentence to show.
        silhouette, distance, valley: of the two clusters, see `defences.poison.class_split.ClassSplit`; None for too few samples.
        confusion: None where the truth is not known.
    """

    label: int
    name: str
    samples: int
    verdict: Verdict
    reason: str
    silhouette: float | None
    distance: float | None
    valley: float | None
    clusters: tuple[Cluster, ...]
    confusion: Confusion | None = None


@dataclass(frozen=True)
class Findings:
    """The verdicts of a detector by class and by sample; the schema is the same for all detectors and all data.

    Attributes:
        method: the detector's name.
        classes: one per class, in order.
        is_clean: bool [n]; false only in classes whose verdict is "poison".
        in_second: bool [n], in the second of its class's clusters.
        scores: float32 [n], larger for more suspicious samples, comparable only within a class.
        plane: float32 [n, 2], a projection of the activations of each class, for pictures; NaN for samples that were not looked at.
        confusion: over all classes.
    """

    method: str
    classes: tuple[ClassFindings, ...]
    is_clean: NDArray[np.bool_]
    in_second: NDArray[np.bool_]
    scores: NDArray[np.float32]
    plane: NDArray[np.float32]
    confusion: Confusion | None = None

    @property
    def poisoned(self) -> tuple[int, ...]:
        """The classes whose verdict is "poison"."""
        return tuple(found.label for found in self.classes if found.verdict == "poison")

    def judged(self, truth: NDArray[np.bool_], labels: Labels) -> Findings:
        """These findings with confusions, from the truth bool [n]: true for clean samples. Raises: InvalidInput: another shape."""
        if truth.shape != self.is_clean.shape:
            raise InvalidInput(f"expected the truth about {len(self.is_clean)} samples, got {list(truth.shape)}")
        classes = tuple(
            replace(found, confusion=confusion(self.is_clean[labels == found.label], truth[labels == found.label]))
            for found in self.classes
        )
        return replace(self, classes=classes, confusion=confusion(self.is_clean, truth))


class PoisonDetector(Protocol):
    """A detector of poisoned training data."""

    @property
    def name(self) -> str: ...

    def detect(self, data: TrainingSet, *, each: Each = in_turn) -> Findings:
        """Verdicts on all classes. Raises: InvalidInput: activations that are not finite."""
        ...


def confusion(is_clean: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
    """The confusion of a detector's is_clean [n] with the true one [n]."""
    found, missed = int((~is_clean & ~truth).sum()), int((is_clean & ~truth).sum())
    flagged, passed = int((~is_clean & truth).sum()), int((is_clean & truth).sum())
    tpr = found / (found + missed) if found + missed else None
    fpr = flagged / (flagged + passed) if flagged + passed else None
    return Confusion(found, missed, flagged, passed, tpr, fpr)
