"""Fit BaDExpert to a classifier: its expert is made of one part of the clean data, and the threshold is read off the other."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defences.calibration.split import CalibrationSplit, Terms
from defences.calibration.thresholds import FittedDetector
from defences.detectors.badexpert import BaDExpert
from defences.errors import CannotBeFitted
from models.bundle import EXPERT, ONNX_EXPERT
from models.classifier import Classifier
from models.datasets import in_memory
from models.engines.conversion import compare
from models.engines.imports.classifier import ForeignClassifier
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.engines.remote.classifier import RemoteClassifier
from models.engines.twins.capabilities import Capabilities, trainable
from models.engines.twins.twin import Twinned
from models.errors import InvalidInput
from models.image_rows import ImageRows, answers_for, blocks
from models.training.reference_classifier import save
from models.training.unlearning import Unlearned, unlearned_copy

ACCURACY_BELOW = 0.25
"""Of the expert on clean images that it was not trained on (section 3 of the paper)."""
_SECONDS_AT_MOST = 300.0
_WATCHED = 3  # one image of so many is not trained on: it tells when the copy has unlearned, and how the rate is shared


def fit_badexpert(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """See `Fit`. Two thirds of the images to choose on get wrong labels and make the expert; the others tell when it is one.

    Cost: at most `models.training.unlearning.PASSES` images forward and backward, and the expert's answer to every image.
    Raises: CannotBeFitted: a classifier that cannot be trained and has no twin that can, or one that does not unlearn.
    """
    own = trainable(classifier)
    if own is None:
        raise CannotBeFitted(Capabilities.of(classifier).lacks_training(BaDExpert.name))
    some = len(parts.choosing) - len(parts.choosing) // _WATCHED
    learnt, watched = (in_memory(parts.choosing.take(rows)) for rows in (slice(0, some), slice(some, None)))
    try:
        found = unlearned_copy(
            own,
            learnt,
            watched,
            below=ACCURACY_BELOW,
            within_s=_SECONDS_AT_MOST,
            seed=terms.seed,
            told=partial(terms.progress, "unlearning"),
        )
    except InvalidInput as failure:  # a model that cannot be copied, or none of whose weights is trained
        raise CannotBeFitted(f"{BaDExpert.name}: {failure}") from failure
    if not found.accuracy < ACCURACY_BELOW:  # NaN too
        raise CannotBeFitted(
            f"{BaDExpert.name} needs a copy of the model that is right on fewer than {100 * ACCURACY_BELOW:g} % of clean images, but "
            f"wrong labels left this one right on {100 * found.accuracy:.0f} %"
        )
    kept = _kept(found.classifier, classifier, watched.images)
    return _fitted(found, kept, classifier, parts, watched.images, len(learnt))


@dataclass(frozen=True)
class _Kept:
    """An expert as it is served, and its files."""

    expert: Classifier
    files: Mapping[str, bytes]


def _kept(expert: KerasClassifier, classifier: Classifier, images: ImageRows) -> _Kept:
    """The expert in the engine that serves the classifier; in ONNX Runtime, where that is a model server.

    It is kept as a Keras model where the bundle keeps the classifier as one, whose reading of images is the expert's too.
    """
    served = classifier.classifier if isinstance(classifier, Twinned) else classifier
    files = {} if isinstance(served, ForeignClassifier | RemoteClassifier) else {EXPERT: _saved(expert)}
    if isinstance(served, KerasClassifier):
        return _Kept(expert, files)
    from models.engines.keras_export import exported

    try:
        graph = exported(expert).SerializeToString()
        converted = OnnxClassifier(graph, labels=served.labels, input_shape=served.input_shape)
        reason = compare(converted, expert, images).reason_against
    except InvalidInput as failure:
        reason = str(failure)
    if reason is not None:
        raise CannotBeFitted(f"{BaDExpert.name}: the expert cannot be served by ONNX Runtime as the model is: {reason}")
    return _Kept(converted, {ONNX_EXPERT: graph, **files})


def _saved(expert: KerasClassifier) -> bytes:
    """The bytes of a .keras file."""
    with tempfile.TemporaryDirectory(prefix="hauberk-") as scratch:
        path = Path(scratch) / EXPERT
        save(expert.model, path)
        return path.read_bytes()


def _fitted(
    found: Unlearned, kept: _Kept, classifier: Classifier, parts: CalibrationSplit, watched: ImageRows, learnt: int
) -> FittedDetector:
    def at(threshold: float) -> BaDExpert:
        return BaDExpert(threshold=threshold, expert=kept.expert)

    def scored(images: ImageRows) -> NDArray[np.float64]:
        answers = answers_for(classifier, images)
        return np.concatenate([at(0.0).scores(images[block], answers[block]) for block in blocks(images)])

    return FittedDetector(
        name=BaDExpert.name,
        settings=at(0.0).settings(),
        arrays={},
        files=kept.files,
        card={
            "expert_accuracy": found.accuracy,
            "accuracy_before": found.accuracy_before,
            "learning_rate": found.learning_rate,
            "steps": found.steps,
            "trained_on": learnt,
            "watched": len(watched),
        },
        choosing=scored(watched),
        holding=scored(parts.holding.images),
        at=at,
        mean_calls=lambda threshold: 1.0,
        lowest=-np.inf,
        unit="log odds",
        summary=f"an expert that is right on {100 * found.accuracy:.0f} % of clean images after {found.steps} steps",
    )
