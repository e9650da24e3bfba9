"""Fit the detector of disagreement between layers: probes, axes and references on one part of the data; the threshold is read off the
other.

Papers: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices" (the shrinkage); Kaya et al. 2019,
arXiv:1810.07052, and Mo et al. 2024, arXiv:2312.02673 (the scores, see `defences/detectors/layer_disagreement.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.calibration.ledoit_wolf import ledoit_wolf
from defences.calibration.split import CalibrationSplit, Terms
from defences.calibration.thresholds import FittedDetector
from defences.detectors.layer_disagreement import NOT_JUDGED, LayerDisagreement
from defences.errors import CannotBeFitted
from models.classifier import Classifier, Features, Labels, LayeredClassifier, LayeredPass, Probabilities
from models.engines.reading.features import MapShape, width
from models.engines.twins.capabilities import engine_of
from models.image_rows import ImageRows, blocks
from models.progress import CountedSteps

LAYERS_AT_MOST = 8
AXES_AT_MOST = 32
"""Of the space in which the nearest references are looked for, in each layer; one less than there are classes where that is fewer."""
REFERENCES_AT_MOST = 1000
IMAGES_A_CLASS, HELD_IMAGES = 100, 1000
"""What the probes and the threshold need; with fewer the detector only monitors."""
_FOLDS = 5
_CONSTANT = 1e-6  # of the largest deviation: features that vary less do not vary
_RIDGE = 1e-6  # of features of deviation 1
_LEAST = 1e-6  # of a deviation
_NEVER = -1e6  # a logit


def fit_layer_disagreement(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Fit probes, axes and references of up to eight blocks on one part of the data, and score the other.

    Both are purified first where the gateway purifies. The scores of images that the detector is fitted on are those of detectors that
    were fitted without them, five in turn.

    Cost: a model call per image. Raises: CannotBeFitted: a classifier that shows no blocks, activations that are no numbers.
    """
    reader = layered_classifier(classifier)
    layers = layers_to_read(reader)
    told = CountedSteps(terms.progress, "layers", len(parts.choosing) + len(parts.holding))
    passes = partial(_passes, reader.layered(tuple(layers)), terms=terms, told=told)
    features, probabilities = (np.concatenate(column) for column in zip(*passes(parts.choosing.images), strict=True))
    seen = Seen(features, probabilities, parts.choosing.labels)
    classes, rng = len(classifier.labels), np.random.default_rng(terms.seed)
    crossed = _crossed(layers, seen, classes, rng)
    moments = np.stack([np.nanmean(crossed, axis=0), np.maximum(np.nanstd(crossed, axis=0), _LEAST)], axis=1)
    fitted = replace(fitted_to(layers, seen, classes, rng), moments=moments)
    return FittedDetector(
        name=fitted.name,
        settings=fitted.settings(),
        arrays={key: getattr(fitted, key) for key, kind in fitted.record.calibrated.items() if kind == "array"},
        card=_card(fitted, seen, classifier.labels),
        choosing=np.nan_to_num(fitted.scores_of(crossed, seen.answers), nan=NOT_JUDGED),
        holding=np.concatenate([fitted.scores(*block) for block in passes(parts.holding.images)]),
        at=lambda threshold: replace(fitted, threshold=threshold),
        mean_calls=lambda threshold: 0.0,
        lowest=-np.inf,
        summary=_summary(fitted, classifier.labels),
        only_monitors=_too_few(seen, len(parts.holding)),
    )


def layered_classifier(classifier: Classifier) -> LayeredClassifier:
    """The classifier, where it shows convolution blocks. Raises: CannotBeFitted: it does not, and what to do."""
    if not isinstance(classifier, LayeredClassifier) or not classifier.blocks():
        raise CannotBeFitted(
            f"{LayerDisagreement.name} reads the convolution blocks of the model, and this model is {engine_of(classifier)}, which shows "
            "none; leave it out (--detectors), or calibrate a model with convolutions itself, as a file"
        )
    return classifier


def layers_to_read(classifier: LayeredClassifier) -> dict[str, MapShape]:
    """The blocks that are read, with the shapes of their maps: all, or eight evenly spread from the first to the last."""
    found = classifier.blocks()
    names = list(found)
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), LAYERS_AT_MOST)).round().astype(int))
    return {names[at]: found[names[at]] for at in places}


@dataclass(frozen=True)
class Seen:
    """Images as the classifier saw them.

    Attributes:
        features: float32 [n, D], of all layers side by side.
        probabilities: float32 [n, k], its answers.
        labels: int64 [n], the true classes.
    """

    features: Features
    probabilities: Probabilities
    labels: Labels

    @property
    def answers(self) -> Labels:
        """The classes it answered, int64 [n]."""
        found: Labels = self.probabilities.argmax(axis=1)
        return found

    def take(self, rows: NDArray[np.int64]) -> Seen:
        """Some of them."""
        return Seen(self.features[rows], self.probabilities[rows], self.labels[rows])


Axes = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int], NDArray[np.float64]]
"""Standardised features [n, d] of a layer, their means by class [k', d], the inverse covariance within classes [d, d], the number of
classes -> the axes [d, r] of the space in which the nearest references are looked for."""


def discriminating(
    values: NDArray[np.float64], means: NDArray[np.float64], inverse: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """The axes on which classes differ: r = min(k - 1, 32), zeros where there are fewer. See `Axes`."""
    count, whitening = min(classes - 1, AXES_AT_MOST), np.linalg.cholesky(inverse)
    apart = (means - means.mean(axis=0)) @ whitening
    directions = np.linalg.svd(apart, full_matrices=False)[2][: min(count, len(means) - 1)]
    axes = np.zeros((len(inverse), count))
    axes[:, : len(directions)] = whitening @ directions.T
    return axes


def fitted_to(
    layers: Mapping[str, MapShape], data: Seen, classes: int, rng: np.random.Generator, *, axes: Axes = discriminating
) -> LayerDisagreement:
    """Probes, axes and references of these images; moments and threshold are open.

    Raises: CannotBeFitted: no image that the classifier gets right.
    """
    widths = np.array([width(shape) for shape in layers.values()])
    spans = [slice(start, end) for start, end in pairwise([0, *np.cumsum(widths).tolist()])]
    maps = [_projection(data.features[:, span], data.labels, classes, axes) for span in spans]
    right = np.flatnonzero(data.answers == data.labels)
    if not right.size:
        raise CannotBeFitted(f"{LayerDisagreement.name}: expected clean images that the model gets right, got none")
    few = rng.permutation(right)[:REFERENCES_AT_MOST]
    few = few[np.argsort(data.labels[few], kind="stable")]
    references = [
        (data.features[few, span] @ projection + offset)[:, classes:].T
        for span, (projection, offset) in zip(spans, maps, strict=True)
    ]
    return LayerDisagreement(
        layers=tuple(layers),
        widths=widths,
        projection=np.concatenate([projection for projection, _ in maps]),
        offset=np.stack([offset for _, offset in maps]),
        references=np.stack(references),
        firsts=np.searchsorted(data.labels[few], np.arange(classes + 1)),
        moments=np.array([[0.0, 1.0]] * 3),
        judged=np.bincount(data.labels, minlength=classes) > 0,
        threshold=-np.inf,
    )


def _projection(features: Features, labels: Labels, classes: int, axes: Axes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From the features [n, d] of a layer to discriminants and axes: matrix [d, k + r] and offset [k + r].

    Features are standardised first; one that never changes is left out. With the covariance within classes C = (L L')^-1 the
    discriminants are those of one normal distribution a class, all classes as likely, and the axes are those of L'x on which the means
    of the classes lie, most spread first: distances between projections are Mahalanobis distances as far as classes differ. Distances
    in all directions, or along principal axes, detect no more (`python -m benchmarks layers`).
    """
    raw = features.astype(np.float64)
    centre, deviation = raw.mean(axis=0), raw.std(axis=0)
    scale: NDArray[np.float64] = np.where(
        deviation > _CONSTANT * max(float(deviation.max()), _LEAST), 1 / np.maximum(deviation, _LEAST), 0.0
    )
    values: NDArray[np.float64] = (raw - centre) * scale
    present = np.unique(labels)
    means = np.zeros((classes, values.shape[1]))
    for label in present.tolist():
        means[label] = values[labels == label].mean(axis=0)
    covariance = ledoit_wolf(values - means[labels])
    covariance[np.diag_indices(len(covariance))] += _RIDGE
    inverse = np.asarray(np.linalg.inv(covariance), np.float64)
    weights = inverse @ means.T
    bias = np.full(classes, _NEVER)  # a class without images gets a probability of 0
    bias[present] = -np.einsum("kd,dk->k", means, weights)[present] / 2
    matrix = np.concatenate([weights, axes(values, means[present], inverse, classes)], axis=1) * scale[:, None]
    offset = np.concatenate([bias, np.zeros(matrix.shape[1] - classes)]) - centre @ matrix
    return matrix.astype(np.float32), offset.astype(np.float32)


def _crossed(layers: Mapping[str, MapShape], data: Seen, classes: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The parts a, b and c [n, 3] of every image, from a detector that was fitted without it; NaN where its class had no other image."""
    order = rng.permutation(len(data.labels))
    order = order[np.argsort(data.labels[order], kind="stable")]
    fold = np.empty(len(order), np.int64)
    fold[order] = np.arange(len(order)) % _FOLDS
    parts = np.full((len(order), 3), np.nan)
    for number in range(_FOLDS):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        detector = fitted_to(layers, data.take(outside), classes, rng)
        known = inside[detector.judged[data.answers[inside]]]
        parts[known] = detector.parts(data.features[known], data.probabilities[known])
    return parts


def _passes(
    layered: LayeredPass, images: ImageRows, *, terms: Terms, told: CountedSteps
) -> Iterator[tuple[Features, Probabilities]]:
    """Features and answers of all images, a block at a time. Raises: CannotBeFitted: activations that are no numbers."""
    for block in blocks(images):
        outputs = layered(terms.purified(images[block]))
        if not np.isfinite(outputs.features).all():
            raise CannotBeFitted(
                f"{LayerDisagreement.name}: expected activations that are numbers, got NaN or infinity; leave it out (--detectors), or "
                "look for what overflows in the model"
            )
        told.add(len(outputs.features))
        yield outputs.features, outputs.probabilities


def images_wanted(classes: int) -> int:
    """Clean images of so many classes that a calibration takes for the detector to enforce; with fewer it only monitors."""
    return max(3 * _probes_need(classes), HELD_IMAGES * 3 // 2)


def _probes_need(classes: int) -> int:
    return min(IMAGES_A_CLASS * classes, LayerDisagreement.record.images_to_choose_on)


def _too_few(seen: Seen, held: int) -> str:
    """Why the detector only monitors, and what more images would buy; "" where there are enough."""
    classes = len(np.unique(seen.labels))
    wanted = _probes_need(classes)
    if len(seen.labels) >= wanted and held >= HELD_IMAGES:
        return ""
    return (
        f"it only monitors: its probes have {len(seen.labels):,} images of the {wanted:,} that {classes} classes need, its threshold "
        f"{held:,} of {HELD_IMAGES:,}; calibrated on {images_wanted(classes):,} images it would refuse"
    )


def _summary(fitted: LayerDisagreement, labels: Sequence[str]) -> str:
    missing = [label for label, judged in zip(labels, fitted.judged, strict=True) if not judged]
    said = f"; answers of class {', '.join(missing)} are not judged, for want of images" if missing else ""
    return f"layers {', '.join(fitted.layers)}{said}"


def _card(fitted: LayerDisagreement, seen: Seen, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "features": dict(zip(fitted.layers, fitted.widths.tolist(), strict=True)),
        "axes": fitted.references.shape[1],
        "references": fitted.references.shape[2],
        "images_a_class": dict(zip(labels, np.bincount(seen.labels, minlength=len(labels)).tolist(), strict=True)),
        "moments": fitted.moments.tolist(),
    }
