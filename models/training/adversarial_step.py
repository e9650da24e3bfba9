"""The compiled functions of adversarial training: a step that makes its own adversarial examples, and the robust accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.classifier import Images, Labels
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.training_attack import TrainingAttack

_VALIDATION_ROWS = 250


class AdversarialStep:
    """Training steps that change a classifier's weights in place, compiled once.

    Loss of a batch whose first `ratio` is made adversarial, in equal parts by each attack:

        mean CE(f(x'), y) over those rows and CE(f(x), y) over the rest                                       (Madry et al. 2017)
        mean CE(f(x), y) + beta * KL(softmax f(x) || softmax f(x')),  x' climbing that KL; for beta > 0        (TRADES, Zhang et al. 2019)

    Examples are made in inference mode (no dropout, running means in batch normalisation) and learnt in training mode, both in float32,
    whatever the precision of the classifier's layers. The first loss is climbed by its odds, which have the same direction.

    Args:
        classifier: the classifier to train.
        optimiser: a Keras optimiser; `train` sets its step size.
        attacks: the attacks that make the adversarial examples.
        ratio: adversarial share of each batch, in (0, 1].
        beta: weight of the KL divergence; 0 for the first loss.
        averaging: decay of the running average of the weights over the steps; 0 for none.

    Cost per step and image: a forward and a backward pass, and one of each per iteration of its attack.
    """

    def __init__(
        self,
        classifier: KerasClassifier,
        optimiser: Any,
        *,
        attacks: Sequence[TrainingAttack],
        ratio: float,
        beta: float,
        averaging: float,
    ) -> None:
        tf = import_tensorflow()
        self._tf, self._classifier, self._optimiser = tf, classifier, optimiser
        self._attacks, self._ratio, self._beta, self._averaging = tuple(attacks), ratio, beta, averaging
        self._weights = classifier.model.trainable_variables
        optimiser.build(self._weights)
        self.averages = [tf.Variable(variable) for variable in self._weights]
        images = tf.TensorSpec([None, *classifier.input_shape], tf.float32)
        labels, scalar, seed = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int32)
        self._train = tf.function(self._graph_train, input_signature=[images, labels, scalar, scalar, seed], autograph=False)
        self._attacked = tf.function(self._graph_attacked, input_signature=[images, labels, seed], autograph=False)

    def train(self, images: Images, labels: Labels, *, step_size: float, scale: float, seed: tuple[int, int]) -> float:
        """Make one step on a batch; returns its loss. `scale` in [0, 1] scales the attacks' eps."""
        constant = self._tf.constant
        return float(
            self._train(
                constant(images),
                constant(labels, "int64"),
                constant(step_size, "float32"),
                constant(scale, "float32"),
                constant(seed, "int32"),
            )
        )

    def robust(self, images: Images, labels: Labels, *, seed: int) -> float:
        """Robust accuracy in [0, 1]: the share classified correctly under every attack, each with twice its training iterations."""
        right = 0
        for start in range(0, len(images), _VALIDATION_ROWS):
            rows = slice(start, start + _VALIDATION_ROWS)
            right += int(np.count_nonzero(self._attacked(images[rows], labels[rows].astype(np.int64), [seed, start]).numpy()))
        return right / len(images)

    def swap(self) -> None:
        """Exchange the weights and their averages: once to evaluate the averages, once more to continue training."""
        for variable, average in zip(self._weights, self.averages, strict=True):
            kept = variable.numpy()
            variable.assign(average)
            average.assign(kept)

    def _graph_train(self, images: Any, labels: Any, step_size: Any, scale: Any, seed: Any) -> Any:
        tf = self._tf
        logits_of = self._classifier.graph_logits
        given = self._made(images, labels, scale, seed)
        logits = logits_of(images if self._beta else given, True)
        loss = _cross_entropy(tf, labels, logits)
        if self._beta:
            loss += self._beta * _divergence(tf, logits, logits_of(given, True))
        loss = tf.add_n([tf.reduce_mean(loss), *self._classifier.model.losses])
        self._optimiser.learning_rate = step_size
        self._optimiser.apply(tf.gradients(loss, self._weights, unconnected_gradients="zero"), self._weights)
        if self._averaging:
            for variable, average in zip(self._weights, self.averages, strict=True):
                average.assign(average * self._averaging + variable * (1 - self._averaging))
        return loss

    def _made(self, images: Any, labels: Any, scale: Any, seed: Any) -> Any:
        """The batch with its first rows made adversarial."""
        tf = self._tf
        rows = tf.shape(images)[0]
        changed = rows if self._beta else tf.cast(tf.round(tf.cast(rows, tf.float32) * self._ratio), tf.int32)
        parts = []
        for number, attack in enumerate(self._attacks):
            part = slice(changed * number // len(self._attacks), changed * (number + 1) // len(self._attacks))
            objective = self._objective(images[part], labels[part])
            parts.append(attack.graph(images[part], objective, scale=scale, seed=_apart(seed, number)))
        return tf.concat([*parts, images[changed:]], axis=0)

    def _objective(self, images: Any, labels: Any) -> Any:
        tf, logits_of = self._tf, self._classifier.graph_logits
        if self._beta:
            clean = tf.stop_gradient(logits_of(images))
            return lambda point: _divergence(tf, clean, logits_of(point))
        return lambda point: _odds(tf, labels, logits_of(point))

    def _graph_attacked(self, images: Any, labels: Any, seed: Any) -> Any:
        tf, logits_of = self._tf, self._classifier.graph_logits
        one = tf.constant(1.0)
        right = tf.argmax(logits_of(images), axis=1) == labels
        for number, attack in enumerate(self._attacks):
            longer = TrainingAttack(eps=attack.eps, norm=attack.norm, iterations=2 * attack.iterations, step=attack.length / 2)
            found = longer.graph(images, lambda point: _odds(tf, labels, logits_of(point)), scale=one, seed=_apart(seed, number))
            right &= tf.argmax(logits_of(found), axis=1) == labels
        return right


def _apart(seed: Any, number: int) -> Any:
    """Seeds for each attack, 100 apart, since an attack uses several consecutive ones."""
    return seed + np.array([0, 100 * number], np.int32)


def _cross_entropy(tf: Any, labels: Any, logits: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _odds(tf: Any, labels: Any, logits: Any) -> Any:
    """log((1 - p_label) / p_label) of every row: it rises with the cross-entropy and has the direction of its gradient, and does not
    become flat where the network is sure."""
    own = tf.one_hot(labels, tf.shape(logits)[1], on_value=True, off_value=False)
    others = tf.where(own, logits.dtype.min, logits)
    return tf.reduce_logsumexp(others, axis=1) - tf.gather(logits, labels, axis=1, batch_dims=1)


def _divergence(tf: Any, clean: Any, moved: Any) -> Any:
    """KL(softmax clean || softmax moved) of every row, in nats."""
    own = tf.nn.log_softmax(clean)
    return tf.reduce_sum(tf.exp(own) * (own - tf.nn.log_softmax(moved)), axis=1)
