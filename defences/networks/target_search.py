"""Does a network have a backdoor? Some class is far easier to be called than the others, and then it is the target of a trigger.

Papers: MM-BD (Wang et al. 2024, arXiv:2205.06900) for the largest margin and for the test of classes against each other; Neural Cleanse
(Wang et al. 2019) and DF-TND (Wang et al. 2020, arXiv:2007.15802) for universal patterns.   Known to beat it: triggers that depend on
what is in the image (source-specific, all to all, warped), several targets at once (docs/defences/target_search.md).
Maths: of each class t nine scores, the largest margin that any image has, and for each of two sets of weak and two of sparse patterns
the mean margin and the mean probability over made images with the best pattern d of the set,

    max_x m_t(x),      mean_s m_t(clip(s + d)),      asin sqrt mean_s p_t(clip(s + d)),      d = argmax_d mean_s log p_t(clip(s + d)),

m_t(x) = z_t(x) - max_{i != t} z_i(x), p the softmax of z; the arcsine evens out the spread of shares. The 70 images s are made of noise
and of the network (`defences.networks.made_images`), since there are no data. For every score Grubbs's test asks whether a class is
above the others; the nine answers are one test (Cauchy combination, `defences.networks.class_outliers`), in which the largest margin, the
weak and the sparse patterns weigh a third each. That holds for classes that are draws of one normal distribution; docs/benchmarks.md has
what it does on networks without a backdoor.
Cost: for k classes about 3,300 k forward and backward passes. Few classes have no power: under 5 it cannot be told.
Raises: InvalidInput: outputs that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput, InvalidParameter
from defences.networks.changes import Sparse, Weak
from defences.networks.class_outliers import CLASSES_AT_LEAST, combined_p_values, distances
from defences.networks.findings import JudgedClass, NetworkFindings, NetworkVerdict
from defences.networks.made_images import MADE_IN, MadeImages, made_images
from defences.networks.mm_bd import largest_margins
from defences.networks.universal_patterns import universal_patterns
from models.classifier import DifferentiableClassifier, Images, Labels
from models.progress import CountedSteps, Progress, silent

_WEAK, _SPARSE = (1 / 32, 1 / 8), (1 / 128, 1 / 48)
SETS = (*(f"weak pattern (1/{1 / size:.0f})" for size in _WEAK), *(f"sparse pattern (1/{1 / size:.0f})" for size in _SPARSE))
"""The sets that a universal pattern is looked for in."""

SCORES = ("largest margin", *(f"{what} under a {which}" for which in SETS for what in ("margin", "probability")))
"""What each class is compared by; of a probability the arcsine of its root."""

_WEIGHTS = np.array([1.0, *[1 / len(SETS)] * (2 * len(SETS))]) / 3
"""Of the scores: a third for each of the three ways to look, since those of one way say much the same."""

_STARTS, _MARGIN_STEPS = 8, 30
_OF_CLASSES, _OF_NOISE, _STEPS = 40, 30, 10
_REACHED = 0.5  # with fewer of the images made for a class called so, the gradients lead nowhere
_NUMBERS_AT_ONCE = 1 << 24


class _Evidence(NamedTuple):
    """Scores [9, m] of m classes and their universal patterns [4, m, h, w, c]."""

    scores: NDArray[np.float64]
    patterns: Images


@dataclass(frozen=True, kw_only=True)
class TargetSearch:
    """A judge of networks: the module's docstring has its method.

    Args:
        p_at_most: in (0, 1), the share of networks without a backdoor that may be called backdoored.
    """

    p_at_most: float = 0.05

    name: str = field(default="target_search", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.p_at_most < 1:
            raise InvalidParameter(f"expected p_at_most in (0, 1), got {self.p_at_most}")

    def judge(self, classifier: DifferentiableClassifier, *, seed: int = 0, progress: Progress = silent) -> NetworkFindings:
        """The verdict on a network and on each class as a target; the same for the same network and seed."""
        k = len(classifier.labels)
        rng = np.random.default_rng(seed)
        counted = CountedSteps(progress, "judging the network", _cost(k))
        made = made_images(classifier, of_classes=_OF_CLASSES, of_noise=_OF_NOISE, rng=rng)
        counted.add(MADE_IN * _OF_CLASSES)
        parts = [_evidence(classifier, some, made, rng, counted) for some in _blocks(classifier)]
        counted.end()
        evidence = _Evidence(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))
        if not np.isfinite(evidence.scores).all():
            raise InvalidInput("expected finite outputs and gradients from the network, got NaN or infinity")
        return self._findings(classifier, made, evidence)

    def _findings(self, classifier: DifferentiableClassifier, made: MadeImages, evidence: _Evidence) -> NetworkFindings:
        scores, untold = evidence.scores, _untold(classifier, made)
        p = combined_p_values(scores, _WEIGHTS)
        apart = np.stack([distances(row) for row in scores])
        by = apart.argmax(axis=0)
        classes = tuple(
            self._judged(label, name, by[label], scores[:, label], apart[:, label], p[label], untold)
            for label, name in enumerate(classifier.labels)
        )
        suspicious = [one for one in classes if one.verdict == "backdoor"]
        nearest = min(classes, key=lambda one: one.p)
        verdict: NetworkVerdict = "cannot tell" if untold else "backdoor" if suspicious else "clean"
        shown = max(0, int(by[nearest.label]) - 1) // 2  # two scores a pattern, after the largest margin
        return NetworkFindings(
            verdict, untold or nearest.reason, classes, evidence.patterns[shown], made.images[0], _cost(len(classes))
        )

    def _judged(
        self,
        label: int,
        name: str,
        by: int,
        scores: NDArray[np.float64],
        apart: NDArray[np.float64],
        p: float,
        untold: str,
    ) -> JudgedClass:
        found = bool(p <= self.p_at_most)
        verdict: NetworkVerdict = "cannot tell" if untold else "backdoor" if found else "clean"
        reason = (
            f"its {SCORES[by]} is {apart[by]:.1f} deviations above those of the other classes (with its other scores p = {p:.2g}, "
            f"{'at most' if found else 'above'} {self.p_at_most:g})"
        )
        return JudgedClass(
            label, name, verdict, untold or reason, SCORES[by], float(apart[by]), float(p), [float(one) for one in scores]
        )


def _untold(classifier: DifferentiableClassifier, made: MadeImages) -> str:
    """Why nothing can be told of a network; empty where something can."""
    k = len(classifier.labels)
    if k < CLASSES_AT_LEAST:
        return f"{k} classes are too few to say that one is unlike the others; it takes {CLASSES_AT_LEAST}"
    if made.reached < _REACHED:
        return (
            f"its gradients lead nowhere: of the images made for a class by following them {100 * made.reached:.0f} % are called so, "
            f"and it takes {100 * _REACHED:.0f} %"
        )
    return ""


def _blocks(classifier: DifferentiableClassifier) -> Iterator[Labels]:
    """The classes, so many at a time as fit into memory with all that is tried on them."""
    k, numbers = len(classifier.labels), int(np.prod(classifier.input_shape)) * (_OF_CLASSES + _OF_NOISE)
    size = max(1, _NUMBERS_AT_ONCE // numbers)
    for start in range(0, k, size):
        yield np.arange(start, min(k, start + size))


def _evidence(
    classifier: DifferentiableClassifier, classes: Labels, made: MadeImages, rng: np.random.Generator, counted: CountedSteps
) -> _Evidence:
    margins = largest_margins(classifier, classes, starts=_STARTS, steps=_MARGIN_STEPS, rng=rng, counted=counted)
    weak = universal_patterns(classifier, classes, made, Weak(), radii=_WEAK, steps=_STEPS, counted=counted)
    sparse = universal_patterns(classifier, classes, made, Sparse(), radii=_SPARSE, steps=_STEPS, counted=counted)
    return _Evidence(
        np.concatenate([margins[None], *weak.pulls, *sparse.pulls]), np.concatenate([weak.patterns, sparse.patterns])
    )


def _cost(classes: int) -> int:
    """Forward and backward passes of a search."""
    patterns = (len(_WEAK) + len(_SPARSE)) * (_STEPS + 1) * (_OF_CLASSES + _OF_NOISE)
    return MADE_IN * _OF_CLASSES + classes * (_STARTS * _MARGIN_STEPS + patterns)
