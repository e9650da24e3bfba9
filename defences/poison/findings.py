"""What detectors of poisoned training data look at, and the one report all of them give.

A detector is a function from a `TrainingSet` to `Findings`. "No poison here" is a possible verdict for every class.
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

Rows = NDArray[np.int64]
"""int64 [m], positions of samples."""

Verdict = Literal["clean", "poison", "too few samples"]

Each = Callable[[str, Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]
"""(what, function, arguments of each call) -> results in order: where the per-class work is done, in this process or on a cluster."""


def in_turn(what: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Each call in this process, one after the other."""
    return [function(*arguments) for arguments in calls]


@dataclass(frozen=True)
class TrainingSet:
    """Training data as a detector sees them. Nothing but `labels` and what is asked for need be in memory.

    Attributes:
        activations: float [n, d], of the last hidden layer; a memory map will do.
        labels: int64 [n], as given, poison included.
        classes: their names.
        images: rows -> float32 [m, h, w, c] in [0, 1].
        witness: rows -> float [m, d'], activations of an earlier layer, which knows more of the image and less of its label; those of
            the last hidden layer stand in where there is none.
        predict: images -> probabilities; without it and `images`, which half of a class is the poison may be undecidable.
    """

    activations: NDArray[np.floating]
    labels: Labels
    classes: tuple[str, ...]
    images: Callable[[Rows], Images] | None = None
    witness: Callable[[Rows], NDArray[np.floating]] | None = None
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
        """Data in memory, as the classifier trained on them sees them; the pixels stand in where it has no earlier layer.

        Cost: a forward pass per image now, and another for whom a detector looks at again.
        """
        earlier = classifier.earlier_layer()

        def witness(rows: Rows) -> NDArray[np.floating]:
            images = data.images[rows]
            return images.reshape(len(images), -1) if earlier is None else classifier.activations(images, earlier)

        return cls(
            classifier.activations(data.images),
            data.labels,
            classifier.labels,
            images=lambda rows: data.images[rows],
            witness=witness,
            predict=classifier.predict,
        )

    def rows_of(self, label: int) -> Rows:
        """Positions of a class's samples."""
        return np.flatnonzero(self.labels == label)

    def looked_at_again(self, rows: Rows) -> NDArray[np.floating]:
        """The witness layer's activations of some samples, or the last hidden layer's."""
        return self.activations[rows] if self.witness is None else self.witness(rows)


@dataclass(frozen=True)
class Confusion:
    """Against the truth; a rate is none where nothing could be found or wrongly flagged.

    Attributes:
        tpr: found of all poison.
        fpr: flagged of all that is clean.
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
        own: share still taken for its class by a classifier trained without the cluster; none where nobody had to ask.
        source: the other class that most of it is taken for.
        margin: how surely, mean difference of the two best scores.
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
        reason: one sentence for people.
        silhouette, distance, valley: of the two clusters, see `defences.poison.class_split.ClassSplit`; none for too few samples.
        confusion: against the truth, where it was given.
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
    """What a detector found, class by class and sample by sample; the schema is the same for all detectors and all data.

    Attributes:
        method: the detector's name.
        classes: one per class, in order.
        is_clean: bool [n]; false only in classes whose verdict is "poison".
        in_second: bool [n], in the second of its class's clusters.
        scores: float32 [n], larger is more suspicious, comparable within a class only.
        plane: float32 [n, 2], the class's activations as the detector saw them, for pictures.
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
        """The classes with poison in them."""
        return tuple(found.label for found in self.classes if found.verdict == "poison")

    def judged(self, truth: NDArray[np.bool_], labels: Labels) -> Findings:
        """The same with confusions, given which samples are clean (bool [n])."""
        if truth.shape != self.is_clean.shape:
            raise InvalidInput(f"expected the truth about {len(self.is_clean)} samples, got {list(truth.shape)}")
        classes = tuple(
            replace(found, confusion=confusion(self.is_clean[labels == found.label], truth[labels == found.label]))
            for found in self.classes
        )
        return replace(self, classes=classes, confusion=confusion(self.is_clean, truth))


class PoisonDetector(Protocol):
    """Finds poisoned training data."""

    @property
    def name(self) -> str: ...

    def detect(self, data: TrainingSet, *, each: Each = in_turn) -> Findings:
        """Verdicts on all classes. Raises: InvalidInput: activations that are not finite."""
        ...


def confusion(is_clean: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
    """How a detector's is_clean compares with the true one."""
    found, missed = int((~is_clean & ~truth).sum()), int((is_clean & ~truth).sum())
    flagged, passed = int((~is_clean & truth).sum()), int((is_clean & truth).sum())
    tpr = found / (found + missed) if found + missed else None
    fpr = flagged / (flagged + passed) if flagged + passed else None
    return Confusion(found, missed, flagged, passed, tpr, fpr)
