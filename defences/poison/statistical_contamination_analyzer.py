"""Statistical contamination analysis: a class with a trigger has two populations, and one of them looks like all the other classes.

Paper: Tang et al. 2021, arXiv:1908.00686 (SCAn), with exclusionary reclassification (Chen et al. 2018, arXiv:1811.03728, section 4) for
its verdict.   Known to beat it: triggers for images of one class, less than 3 % of a class
(docs/defences/statistical-contamination-analyzer.md).
Maths: per class, activations of the last feature map in a space where the variation within the other classes is the identity
(`defences.poison.populations`); the class is split in two there, as the paper does, whose likelihood ratio is not used: natural halves of
a class are as far apart as poison. A class is poisoned if a valley lies between its halves, neither is recognised as its class where the
other one stands for it, and one of them repeats the mix of the other classes: poison was made from them, and a natural kind of a class
looks like few of them, wherever it lies. That needs no patch that covers a trigger, so that blended and warped triggers are found.
Shapes: witness activations [n, d], labels [n] -> is_clean bool [n] and scores [n].
Cost: a forward pass up to the last feature map for at most `per_class` samples of a class and 12,000 in all, and for every sample of a
poisoned class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from defences.errors import InvalidInput, InvalidParameter
from defences.poison.class_split import ClassSplit
from defences.poison.exclusionary_reclassification import Scale
from defences.poison.findings import ClassFindings, Cluster, Each, Findings, Positions, TrainingSet, Verdict, Witness, in_turn
from defences.poison.populations import SMALLEST, Lens, populations
from defences.poison.second_look import some_of
from defences.poison.verdicts import whole
from models.classifier import Labels

_IN_ALL = 12_000
_NUMBERS_IN_ALL = 1 << 27
_OTHERS_PER_CLASS, _OTHERS_IN_ALL = 300, 3000
_ROWS_A_BATCH = 1024
_SAMPLES_AT_LEAST = 100  # of fewer, some halves are told apart by chance
_CLASSES_AT_LEAST = 5  # one of fewer others is like the mix of all by chance

_Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StatisticalContaminationAnalyzer:
    """A detector of poisoned training data: the module's docstring has its method.

    Args:
        foreign_at_least: in [0, 3]; a class is poisoned when one half is a sample of the other classes as clearly as this
            (`defences.poison.populations.judged`).
        valley_at_most: in [0, 1], the density between the halves, over the lower of their peaks.
        per_class: at least 100, how many samples of a class are split; the border found is drawn through all of a poisoned class.
        seed: of all random draws; two runs with one seed agree.
    """

    foreign_at_least: float = 0.8
    valley_at_most: float = 0.6
    per_class: int = 3000
    seed: int = 0

    name: str = field(default="statistical_contamination_analyzer", init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.foreign_at_least <= 3:
            raise InvalidParameter(f"expected foreign_at_least in [0, 3], got {self.foreign_at_least}")
        if not 0 <= self.valley_at_most <= 1:
            raise InvalidParameter(f"expected valley_at_most in [0, 1], got {self.valley_at_most}")
        if self.per_class < _SAMPLES_AT_LEAST:
            raise InvalidParameter(f"expected per_class >= {_SAMPLES_AT_LEAST}, got {self.per_class}")

    def detect(self, data: TrainingSet, *, each: Each = in_turn) -> Findings:
        """See `PoisonDetector.detect`."""
        rows = [data.rows_of(label) for label in range(len(data.classes))]
        seen = _read(data, self._looked_at(data, rows), self.seed)
        large = [label for label, some in enumerate(seen.rows) if len(some) >= _SAMPLES_AT_LEAST]
        splits: dict[int, ClassSplit | None] = dict.fromkeys(range(len(rows)))
        if len(large) >= _CLASSES_AT_LEAST and not _of_pixels(data):
            counts = np.array([len(some) for some in rows])
            calls = ((seen.features[label], *seen.others(label), counts, self) for label in large)
            found = zip(large, each("separating populations", populations_of, calls), strict=True)
            splits |= {label: split and self._of_all(data, rows[label], label, split, seen) for label, split in found}
        classes = [self._class_findings(data, label, len(some), splits[label], len(large)) for label, some in enumerate(rows)]
        left = [
            some[~split.second] if one.verdict == "poison" and (split := splits[one.label]) is not None else some
            for some, one in zip(rows, classes, strict=True)
        ]
        return whole(self.name, data, rows, splits, classes, left)

    def is_poison(self, split: ClassSplit) -> bool:
        """Whether the second half of a class is poison."""
        enough = split.foreign is not None and split.foreign >= self.foreign_at_least
        return enough and split.valley is not None and split.valley <= self.valley_at_most

    def _looked_at(self, data: TrainingSet, rows: Sequence[Positions]) -> list[Positions]:
        """The positions of the samples that are split, in order; of wide activations fewer, so that they fit into memory."""
        width = data.looked_at_again(np.arange(min(1, len(data.labels)))).shape[1]
        counts = np.array([len(some) for some in rows])
        per_class = self.per_class
        while per_class > _SAMPLES_AT_LEAST and np.minimum(counts, per_class).sum() > min(
            _IN_ALL, _NUMBERS_IN_ALL // max(width, 1)
        ):
            per_class = max(_SAMPLES_AT_LEAST, int(per_class * 0.95))
        return [np.sort(some_of(some, per_class, self.seed)) for some in rows]

    def _class_findings(self, data: TrainingSet, label: int, samples: int, split: ClassSplit | None, large: int) -> ClassFindings:
        verdict, reason = self._verdict(data, samples, split, large)
        if split is None or split.own is None or split.sources is None:
            return ClassFindings(label, data.classes[label], samples, verdict, reason, None, None, None, ())
        clusters = tuple(
            Cluster(
                size=int(part.sum()),
                share=float(part.mean()),
                poison=verdict == "poison" and at == 1,
                own=float(split.own[at]),
                source=data.classes[split.sources[at]],
            )
            for at, part in enumerate(split.parts)
        )
        measures = (split.silhouette, split.distance, split.valley)
        return ClassFindings(label, data.classes[label], samples, verdict, reason, *measures, clusters)

    def _verdict(self, data: TrainingSet, samples: int, split: ClassSplit | None, large: int) -> tuple[Verdict, str]:
        if samples < _SAMPLES_AT_LEAST:
            return "too few samples", f"{samples} samples are too few to split"
        if _of_pixels(data):
            return "cannot tell", "the network has no feature map, and its pixels do not say what an image shows"
        if large < _CLASSES_AT_LEAST:
            return (
                "cannot tell",
                f"it takes {_CLASSES_AT_LEAST} classes of {_SAMPLES_AT_LEAST} samples to tell a mix of classes from one",
            )
        if split is None:
            return "clean", "its samples cannot be split in two"
        if self.is_poison(split) and split.sources is not None:
            return (
                "poison",
                f"one population repeats the other classes, mostly {data.classes[split.sources[1]]}; the other one does not",
            )
        if split.valley is not None and split.valley > self.valley_at_most:
            return "clean", "its two populations overlap"
        return "clean", "neither of its two populations is a mix of the other classes"

    def _of_all(self, data: TrainingSet, rows: Positions, label: int, split: ClassSplit, seen: _Seen) -> ClassSplit:
        """The split of some samples of a class as one of all: a poisoned class is split again, the others are left as they are."""
        if len(rows) == len(split.second):
            return split
        at, through = np.searchsorted(rows, seen.rows[label]), None
        if self.is_poison(split):
            more = np.sort(some_of(np.arange(len(rows)), self.per_class, self.seed))
            features = _batched(lambda some: seen.scale(data.looked_at_again(some)), rows[more])
            others, labels = seen.others(label)
            again = populations_of(
                features, others, labels, np.array([len(data.rows_of(one)) for one in range(len(data.classes))]), self
            )
            if again is not None and self.is_poison(again):
                at, split = more, again
            else:
                features = seen.features[label]
            through = _line_through(Lens.on(features, others, labels), features, split.position)
        position = np.full(len(rows), split.position.mean())
        if through is not None:
            rest = np.setdiff1d(np.arange(len(rows)), at)
            position[rest] = _batched(lambda some: through(seen.scale(data.looked_at_again(some))), rows[rest])
        position[at] = split.position
        border = (split.position[split.second].min() + split.position[~split.second].max()) / 2
        plane = np.full((len(rows), 2), np.nan, np.float32)
        plane[at] = split.plane
        return replace(split, second=position > border, position=position, plane=plane)


@dataclass(frozen=True)
class _Seen:
    """Activations of the witness layer that a detector has read.

    Attributes:
        rows: of each class, the positions of the samples read.
        features: of each class, [n, d], on one scale.
        scale: that brings further activations to it.
    """

    rows: Sequence[Positions]
    features: Sequence[_Matrix]
    scale: Scale

    def others(self, label: int) -> tuple[_Matrix, Labels]:
        """Features [m, d] and labels [m] of samples of the other classes."""
        per_class = max(SMALLEST, min(_OTHERS_PER_CLASS, _OTHERS_IN_ALL // len(self.features)))
        some = {
            at: one[:: -(-len(one) // per_class)]
            for at, one in enumerate(self.features)
            if at != label and len(one) >= _SAMPLES_AT_LEAST
        }
        return np.concatenate(list(some.values())), np.repeat(list(some), [len(one) for one in some.values()])


def _read(data: TrainingSet, rows: Sequence[Positions], seed: int) -> _Seen:
    """The witness activations of the samples `rows` of each class. Raises: InvalidInput: NaN or infinity among them."""
    raw = [data.looked_at_again(some) for some in rows]
    for some, read in zip(rows, raw, strict=True):
        bad = some[~np.isfinite(read).all(axis=1)]
        if len(bad):
            raise InvalidInput(f"expected finite activations, got NaN or infinity for sample {bad[0]}; check the image")
    scale = _along_the_widest(Scale.of(np.concatenate(raw), seed), raw, seed)
    return _Seen(rows, [scale(some) for some in raw], scale)


def _of_pixels(data: TrainingSet) -> bool:
    return isinstance(data.witness, Witness) and data.witness.classifier.earlier_layer() is None


def _line_through(lens: Lens, features: _Matrix, position: _Matrix) -> Callable[[_Matrix], _Matrix]:
    """Features [m, d] -> positions [m] on the line on which the samples with features [n, d] have these positions."""
    seen = np.column_stack([features @ lens.matrix, np.ones(len(features))])
    line, *_ = np.linalg.lstsq(seen, position, rcond=None)
    return lambda asked: asked @ lens.matrix @ line[:-1] + line[-1]


def _batched(read: Callable[[Positions], _Matrix], rows: Positions) -> _Matrix:
    """What is read of these samples, a batch at a time."""
    parts = [read(rows[start : start + _ROWS_A_BATCH]) for start in range(0, max(len(rows), 1), _ROWS_A_BATCH)]
    return np.concatenate(parts)


def _along_the_widest(scale: Scale, raw: Sequence[NDArray[np.floating]], seed: int) -> Scale:
    """The scale, with the directions of largest variance for random ones: neighbours in a map are alike, and noise is not."""
    if scale.projection is None:
        return scale
    some = np.concatenate([one[:: max(1, -(-len(one) * len(raw) // _OTHERS_IN_ALL))] for one in raw])
    size = min(scale.projection.shape[1], len(some) - 1)
    _, _, directions = randomized_svd((some - scale.middle) / scale.width, size, n_iter=1, random_state=seed)
    return replace(scale, projection=directions.T.astype(np.float32))


def populations_of(
    features: _Matrix, others: _Matrix, labels: Labels, counts: NDArray[np.int64], how: StatisticalContaminationAnalyzer
) -> ClassSplit | None:
    """The populations of one class; a module-level function, so that it can be pickled and sent to another process."""
    return populations(features, others, labels, counts, foreign_at_least=how.foreign_at_least, valley_at_most=how.valley_at_most)
