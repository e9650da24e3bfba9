"""One pattern a class that, added to any image, has it called that class: for a backdoor's target a small one is enough.

Papers: universal adversarial perturbations (Moosavi-Dezfooli et al. 2017, arXiv:1610.08401) as the sign of a backdoor, Neural Cleanse
(Wang et al. 2019, IEEE S&P) and, without data, DF-TND (Wang et al. 2020, arXiv:2007.15802).
Maths: for class t and a set D of small patterns

    d_t = argmax_{d in D} mean_x log p_t(clip(x + d)),    x over made images that are not t,

by projected gradient ascent with momentum, from the pattern of the next smaller set.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from defences.networks.made_images import MadeImages
from defences.networks.margins import log_probability, margin
from models.classifier import DifferentiableClassifier, Images, Labels
from models.progress import CountedSteps

_MOMENTUM = 0.7
_FIRST_STEP, _LAST_STEP = 0.4, 0.03
_FIRST_SET = 1 / 4  # of the first radius, where a set grows


class PatternSet(Protocol):
    """A set of patterns [h, w, c] for each radius, larger for larger ones.

    Attributes:
        grows: whether a search begins in a smaller set, which grows to the wanted one step by step: what few pixels do best is kept then.
    """

    @property
    def grows(self) -> bool: ...

    def bound(self, shape: tuple[int, int, int], radius: float) -> float:
        """An L2 norm that patterns of the set have: the length of a step."""
        ...

    def bounded(self, patterns: Images, radius: float) -> Images:
        """The nearest patterns of the set, [m, h, w, c]."""
        ...


class UniversalPatterns(NamedTuple):
    """What was found.

    Attributes:
        pulls: means over made images of z_t - max_{i != t} z_i, and the arcsine of the root of that of p_t, under the pattern of class t,
            [radii, 2, m]; 0 where all are t.
        patterns: of each radius, [radii, m, h, w, c].
    """

    pulls: NDArray[np.float64]
    patterns: Images


def universal_patterns(
    classifier: DifferentiableClassifier,
    classes: Labels,
    made_images: MadeImages,
    among: PatternSet,
    *,
    radii: tuple[float, ...],
    steps: int,
    counted: CountedSteps,
) -> UniversalPatterns:
    """The patterns of m classes at once, for one radius after the other.

    Args:
        radii: ascending, > 0.

    Cost: len(radii) * (steps + 1) * m * n forward passes, nearly as many backward.
    """
    shape, images, labels = classifier.input_shape, made_images.images, made_images.labels
    counts = labels[None] != classes[:, None]
    targets = np.repeat(classes, len(images))
    patterns = np.zeros((len(classes), *shape), np.float32)
    pulls, kept = [], []
    for before, radius in zip((radii[0] * _FIRST_SET, *radii), radii, strict=False):
        towards = np.zeros_like(patterns)
        growing = np.geomspace(before if among.grows else radius, radius, steps)
        for step, radius_now in zip(np.linspace(_FIRST_STEP, _LAST_STEP, steps, dtype=np.float32), growing, strict=True):
            ascent = _ascent(classifier, images, patterns, targets, counts)
            length = np.sqrt((ascent**2).sum(axis=(1, 2, 3), keepdims=True))
            towards = np.float32(_MOMENTUM) * towards + ascent / np.maximum(length, 1e-12)
            patterns = among.bounded(np.clip(patterns + among.bound(shape, radius_now) * step * towards, -1, 1), radius_now)
            counted.add(len(targets))
        logits = classifier.logits(_under(images, patterns))
        counted.add(len(targets))
        values = np.stack([margin(logits, targets)[0], np.exp(log_probability(logits, targets)[0])])
        margins, shares = np.where(counts, values.reshape(2, *counts.shape), 0).sum(axis=2) / np.maximum(counts.sum(axis=1), 1)
        pulls.append(np.stack([margins, np.arcsin(np.sqrt(np.clip(shares, 0, 1)))]))
        kept.append(patterns)
    return UniversalPatterns(np.stack(pulls), np.stack(kept))


def _under(images: Images, patterns: Images) -> Images:
    """Every image under every pattern, [m * n, h, w, c]."""
    changed: Images = np.clip(images[None] + patterns[:, None], 0, 1)
    return changed.reshape(-1, *images.shape[1:])


def _ascent(
    classifier: DifferentiableClassifier,
    images: Images,
    patterns: Images,
    targets: NDArray[np.int64],
    counts: NDArray[np.bool_],
) -> Images:
    """The gradient of the sum over images by each pattern, [m, h, w, c]; where a value is clipped, only what brings it back counts."""
    gradient = classifier.loss_gradient(_under(images, patterns), targets, log_probability).gradient
    gradient = gradient.reshape(len(patterns), len(images), *images.shape[1:])
    moved = images[None] + patterns[:, None]
    free = ((moved > 0) | (gradient > 0)) & ((moved < 1) | (gradient < 0))
    ascent: Images = (gradient * free * counts[:, :, None, None, None]).sum(axis=1)
    return ascent
