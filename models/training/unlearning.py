"""Unlearning: a copy of a Keras classifier that wrong labels make forget what clean images show, and little else.

Xie et al. 2024, arXiv:2308.12439, algorithm 1. The step size matters more than anything else: too small, and nothing is forgotten; too
large, and everything is, a backdoor included. No size suits all networks, so that it grows from step to step, from far too small, until
the copy is right on few clean images, and no further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.fine_tuning import check_training_data, copy_of

FIRST, GROWTH, STEPS = 1e-5, 1.03, 500
"""Step sizes of Adam: from 1e-5 to 25. Networks forget at 1e-3 to 1e-2; only weights that are unusually large take more."""
BATCH = 32
PASSES = BATCH * STEPS
"""Images that are shown at most, forward and backward; and one look at the watched ones every few steps."""
_LOOKS = 5
_WATCHED_AT_MOST = 256


@dataclass(frozen=True)
class Unlearned:
    """A copy of a classifier that has unlearned.

    Attributes:
        accuracy_before, accuracy: of the classifier and of its copy on images that neither was trained on.
        learning_rate: of the last step.
        steps: of training.
    """

    classifier: KerasClassifier
    accuracy_before: float
    accuracy: float
    learning_rate: float
    steps: int


def unlearned_copy(
    classifier: KerasClassifier,
    data: Dataset,
    watched: Dataset,
    *,
    below: float,
    seed: int = 0,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Unlearned:
    """A copy of the classifier, trained on `data` with labels drawn from the wrong ones until it is right on few images.

    Batch statistics of normalisation layers stay as they are, and so does what was frozen. The classifier is not changed.

    Args:
        watched: labelled images that tell how much is forgotten, of which 256 are looked at.
        below: the accuracy at which it stops; a copy that does not fall below it comes back as it is after `STEPS`.
        seed: of batches and labels; the same seed, data and thread count give the same weights.
        told: called with (steps done, steps at most).

    Raises: InvalidInput: no images, another shape, unknown labels, a model that cannot be copied or has no trainable weights.
    """
    check_training_data(classifier, data)
    copy, some = copy_of(classifier), watched.take(slice(0, _WATCHED_AT_MOST))
    before = accuracy = _accuracy(classifier, some)
    step, rng = _step(copy), np.random.default_rng(seed)
    for done, rows in zip(range(1, STEPS + 1), _batches(len(data), rng), strict=False):
        step(data.images[rows], _wrong(data.labels[rows], len(copy.labels), rng), FIRST * GROWTH ** (done - 1))
        told(done, STEPS)
        if done % _LOOKS == 0:
            accuracy = _accuracy(copy, some)
            if accuracy < below:
                break
    told(STEPS, STEPS)
    return Unlearned(copy, before, accuracy, FIRST * GROWTH ** (done - 1), done)


def _step(copy: KerasClassifier) -> Callable[[NDArray[np.float32], Labels, float], None]:
    """A step of Adam on a batch with these labels, at this step size, compiled once."""
    tf = import_tensorflow()
    import keras

    weights, optimiser = copy.model.trainable_variables, keras.optimizers.Adam(FIRST)
    optimiser.build(weights)

    def graph(images: Any, labels: Any, rate: Any) -> None:
        # In inference mode: statistics of batches would change the copy even where its weights do not move.
        logits = copy.graph_logits(images)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimiser.learning_rate = rate
        optimiser.apply(tf.gradients(loss, weights, unconnected_gradients="zero"), weights)

    images = tf.TensorSpec([None, *copy.input_shape], tf.float32)
    signature = [images, tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.float32)]
    compiled = tf.function(graph, input_signature=signature, autograph=False)

    def step(images: NDArray[np.float32], labels: Labels, rate: float) -> None:
        compiled(tf.constant(images), tf.constant(labels, tf.int64), tf.constant(rate, tf.float32))

    return step


def _accuracy(classifier: KerasClassifier, data: Dataset) -> float:
    return float((classifier.predict(data.images).argmax(axis=1) == data.labels).mean())


def _batches(samples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of one batch after the other, without end: the data in a new order each time, the last part of it with the next."""
    ahead = np.empty(0, np.int64)
    while True:
        while len(ahead) < BATCH:
            ahead = np.concatenate([ahead, rng.permutation(samples)])
        yield ahead[:BATCH]
        ahead = ahead[BATCH:]


def _wrong(labels: Labels, classes: int, rng: np.random.Generator) -> Labels:
    """Any class but the right one, drawn anew."""
    wrong: Labels = (labels + rng.integers(1, classes, len(labels))) % classes
    return wrong
