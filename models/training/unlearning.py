"""Unlearning: a copy of a Keras classifier that wrong labels make forget what clean images show, and little else.

Xie et al. 2024, arXiv:2308.12439, algorithm 1. The step size matters more than anything else: too large, and the copy forgets what its
backdoor does as well; too small, and in the many steps that it takes the backdoor fades too. None suits all networks, so that one is
sought with which a copy forgets within some dozens of steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.fine_tuning import check_training_data, copy_of

FIRST, FACTOR, RUNS = 1e-3, 4.0, 8
"""Step sizes of Adam: the first, by how much the next is larger or smaller, and how many are tried at most."""
STEPS_AT_LEAST, STEPS_AT_MOST = 30, 120
"""In how many steps a copy should forget."""
BATCH = 32
PASSES = BATCH * STEPS_AT_MOST * RUNS
"""Images that are shown at most, forward and backward; after every fifth step the watched ones are looked at."""
_STEPS_PER_LOOK = 5
_WATCHED_AT_MOST = 256


@dataclass(frozen=True)
class Unlearned:
    """A copy of a classifier that has unlearned.

    Attributes:
        accuracy_before, accuracy: of the classifier and of its copy on images that neither was trained on.
        learning_rate, steps: with which it did.
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
    within_s: float = math.inf,
    seed: int = 0,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Unlearned:
    """A copy of the classifier, trained on `data` with labels drawn from the wrong ones until it is right on few images.

    Batch statistics of normalisation layers stay as they are, and so does what was frozen. The classifier is not changed.

    Args:
        watched: labelled images that tell how much is forgotten, of which 256 are looked at.
        below: the accuracy at which a run stops. Where no step size leads there, the copy that came closest is returned.
        within_s: how long it may take; then the best copy so far is returned.
        seed: of batches and labels; the same seed, data and thread count give the same weights.
        told: called with (steps done, steps at most).

    Raises: InvalidInput: no images, another shape, unknown labels, a model that cannot be copied or has no trainable weights.
    """
    check_training_data(classifier, data)
    runs = _Runs(copy_of(classifier), data, watched.take(slice(0, _WATCHED_AT_MOST)), below, seed)
    ends = time.monotonic() + within_s
    before = runs.accuracy()
    best = _best(runs, below, ends, lambda done: told(done * STEPS_AT_MOST, RUNS * STEPS_AT_MOST))
    return Unlearned(runs.restored(best), before, best.accuracy, best.rate, best.steps)


@dataclass(frozen=True)
class _Run:
    """What a step size came to; the accuracy is NaN where the copy's outputs are."""

    rate: float
    steps: int
    accuracy: float
    weights: list[NDArray[Any]]

    def rank(self, below: float) -> tuple[int, float]:
        """Lower is better: of copies that have forgotten those that took longer, then those that are right less often."""
        if self.accuracy < below:
            return 0, -self.steps
        return (2, 0.0) if math.isnan(self.accuracy) else (1, self.accuracy)


def _best(runs: _Runs, below: float, ends: float, told: Callable[[int], None]) -> _Run:
    """The first run that forgets in as many steps as it should; the best of those that were tried where none does."""
    too_small, too_large = 0.0, math.inf
    run = best = runs.run(FIRST, ends)
    for done in range(1, RUNS):
        told(done)
        if time.monotonic() > ends:
            break
        if run.accuracy >= below:
            too_small = run.rate
        elif math.isnan(run.accuracy) or run.steps < STEPS_AT_LEAST:
            too_large = run.rate
        else:
            break
        run = runs.run(_between(too_small, too_large), ends)
        best = min(best, run, key=lambda one: one.rank(below))
    told(RUNS)
    return best


def _between(too_small: float, too_large: float) -> float:
    if not too_small:
        return too_large / FACTOR
    return too_small * FACTOR if math.isinf(too_large) else math.sqrt(too_small * too_large)


class _Runs:
    """Runs of one copy from the same weights, with steps that are compiled once."""

    def __init__(self, copy: KerasClassifier, data: Dataset, watched: Dataset, below: float, seed: int) -> None:
        self._copy, self._data, self._watched, self._below, self._seed = copy, data, watched, below, seed
        self._tf = import_tensorflow()
        import keras

        self._start: list[NDArray[Any]] = copy.model.get_weights()
        self._weights, self._optimiser = copy.model.trainable_variables, keras.optimizers.Adam(FIRST)
        self._optimiser.build(self._weights)
        images = self._tf.TensorSpec([None, *copy.input_shape], self._tf.float32)
        signature = [images, self._tf.TensorSpec([None], self._tf.int64)]
        self._step: Callable[..., Any] = self._tf.function(self._graph, input_signature=signature, autograph=False)

    def run(self, rate: float, ends: float) -> _Run:
        """From the first weights, with steps of this size, until the copy is right on few images or the time is over."""
        self._begin(rate)
        rng, classes = np.random.default_rng(self._seed), len(self._copy.labels)
        accuracy = 1.0
        for done, rows in zip(range(1, STEPS_AT_MOST + 1), _batches(len(self._data), rng), strict=False):
            wrong = (self._data.labels[rows] + rng.integers(1, classes, BATCH)) % classes
            self._step(self._tf.constant(self._data.images[rows]), self._tf.constant(wrong, "int64"))
            over = time.monotonic() > ends
            if over or done % _STEPS_PER_LOOK == 0:
                accuracy = self.accuracy()
                if over or not accuracy >= self._below:  # NaN too
                    break
        return _Run(rate, done, accuracy, self._copy.model.get_weights())

    def restored(self, run: _Run) -> KerasClassifier:
        """The copy as it was after a run."""
        self._copy.model.set_weights(run.weights)
        return self._copy

    def accuracy(self) -> float:
        """Of the copy as it is on the watched images."""
        outputs = self._copy.predict(self._watched.images)
        return float((outputs.argmax(axis=1) == self._watched.labels).mean()) if np.isfinite(outputs).all() else math.nan

    def _begin(self, rate: float) -> None:
        self._copy.model.set_weights(self._start)
        for variable in self._optimiser.variables:
            variable.assign(self._tf.zeros_like(variable))
        self._optimiser.learning_rate = rate

    def _graph(self, images: Any, labels: Any) -> None:
        # In inference mode: statistics of batches would change the copy even where its weights do not move.
        logits = self._copy.graph_logits(images)
        loss = self._tf.reduce_mean(self._tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradient = self._tf.gradients(loss, self._weights, unconnected_gradients="zero")
        self._optimiser.apply(gradient, self._weights)


def _batches(samples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of one batch after the other, without end: the data in a new order each time, the last part of it with the next."""
    ahead = np.empty(0, np.int64)
    while True:
        while len(ahead) < BATCH:
            ahead = np.concatenate([ahead, rng.permutation(samples)])
        yield ahead[:BATCH]
        ahead = ahead[BATCH:]
