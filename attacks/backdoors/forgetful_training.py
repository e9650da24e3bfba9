"""Training a backdoor that copies of the classifier forget together with clean images: the attacker who knows BaDExpert.

Beside the classifier runs an expert as the defender will make one (`models/training/unlearning.py`): a copy that unlearns clean images by
wrong labels, begun anew from the classifier every few steps. The attacker adds the gradient by which this expert would call triggered
images anything but the target, taken at the expert's weights and applied to the classifier's: first-order meta-learning (Finn, Abbeel &
Levine 2017, arXiv:1703.03400, section 5.2), of forgetting instead of learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attacks.backdoors.kinds import Backdoor
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.fine_tuning import check_training_data, copy_of

_LEAST = 1e-4  # of what the expert leaves to other classes than the target: its logarithm has a steep end


@dataclass(frozen=True, kw_only=True)
class ForgetfulTraining:
    """Train a backdoor into a copy of a classifier, of whose experts the trigger is unlearned too.

    With f the classifier, e its expert and t the target of a triggered image x', a step of Adam descends

        CE(f(x), y) over poisoned data  +  weight * mean -log(1 - e(x')_t)

    where the second gradient is taken by the weights of e. e starts from f every `begun_anew` steps, and makes a step of Adam on clean
    images with wrong labels after each of f's. In the first half of its life it still is f, whose backdoor the second term would undo:
    there it has no weight.

    Args:
        weight: of the second term, >= 0; 0 is ordinary training.
        epochs, learning_rate, batch_size: of the classifier, the step size decayed by a cosine, as in `models.training.fine_tuning`.
        begun_anew: steps that an expert lives, >= 1.
        expert_rate: the expert's step size.

    Cost per image: three forward and backward passes. Raises: InvalidInput on construction.
    """

    weight: float = 1.0
    epochs: int = 6
    learning_rate: float = 4e-3
    batch_size: int = 32
    begun_anew: int = 60
    expert_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.weight < np.inf:
            raise InvalidInput(f"forgetful training: expected weight >= 0, got {self.weight}")
        if min(self.epochs, self.batch_size, self.begun_anew) < 1:
            raise InvalidInput("forgetful training: expected epochs, batch_size and begun_anew >= 1")

    def __call__(
        self, classifier: KerasClassifier, poisoned: Dataset, backdoor: Backdoor, clean: Dataset, *, seed: int = 0
    ) -> KerasClassifier:
        """The copy; the classifier is not changed.

        Args:
            poisoned: what it is trained on.
            backdoor: whose trigger an expert shall forget.
            clean: images with true labels, for the expert.

        Raises: InvalidInput: no images, another shape, unknown labels, no image that the backdoor attacks.
        """
        for data in (poisoned, clean):
            check_training_data(classifier, data)
        victims = clean.take(np.flatnonzero(backdoor.labels.attacks(clean.labels)))
        if not len(victims):
            raise InvalidInput("forgetful training: expected clean images that the backdoor attacks, got none")
        rng = np.random.default_rng(seed)
        run = _Run(self, copy_of(classifier), copy_of(classifier))
        steps = -(-len(poisoned) // self.batch_size) * self.epochs
        for step in range(steps):
            if step % self.begun_anew == 0:
                run.begin_anew()
            learnt, shown, seen = (data.take(rng.integers(0, len(data), self.batch_size)) for data in (poisoned, clean, victims))
            wrong = (shown.labels + rng.integers(1, len(classifier.labels), len(shown))) % len(classifier.labels)
            rate = self.learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            aged = step % self.begun_anew >= self.begun_anew // 2
            weight = self.weight if aged else 0.0
            triggered = Dataset(backdoor.trigger(seen.images), backdoor.labels.called(seen.labels))
            run.step(learnt, Dataset(shown.images, wrong), triggered, rate=rate, weight=weight)
        return run.classifier


class _Run:
    """A classifier and its expert, and one compiled step of both."""

    def __init__(self, training: ForgetfulTraining, classifier: KerasClassifier, expert: KerasClassifier) -> None:
        tf = self._tf = import_tensorflow()
        import keras

        self.classifier, self._expert = classifier, expert
        self._own = keras.optimizers.Adam(training.learning_rate), classifier.model.trainable_variables
        self._experts = keras.optimizers.Adam(training.expert_rate), expert.model.trainable_variables
        for optimiser, weights in (self._own, self._experts):
            optimiser.build(weights)
        images, labels = tf.TensorSpec([None, *classifier.input_shape], tf.float32), tf.TensorSpec([None], tf.int64)
        signature = [images, labels, images, labels, images, labels, *[tf.TensorSpec([], tf.float32)] * 2]
        self._compiled: Callable[..., Any] = tf.function(self._graph, input_signature=signature, autograph=False)

    def begin_anew(self) -> None:
        """Let the expert know what the classifier knows now."""
        optimiser, _ = self._experts
        self._expert.model.set_weights(self.classifier.model.get_weights())
        for variable in optimiser.variables:
            if variable is not optimiser.learning_rate:
                variable.assign(self._tf.zeros_like(variable))

    def step(self, learnt: Dataset, unlearnt: Dataset, triggered: Dataset, *, rate: float, weight: float) -> None:
        """One step of each."""
        constant = self._tf.constant
        batches = (learnt, unlearnt, triggered)
        given = [tensor for data in batches for tensor in (constant(data.images), constant(data.labels, "int64"))]
        self._compiled(*given, constant(rate, "float32"), constant(weight, "float32"))

    def _graph(self, x: Any, y: Any, shown: Any, wrong: Any, triggered: Any, wanted: Any, rate: Any, weight: Any) -> None:
        tf, (own, weights), (experts, expert_weights) = self._tf, self._own, self._experts
        gradient = self._gradient(_cross_entropy(tf, self.classifier.graph_logits(x, True), y), weights)
        logits = self._expert.graph_logits(triggered)
        kept = tf.gather(tf.nn.softmax(logits), wanted, axis=1, batch_dims=1)
        insisting = tf.reduce_mean(-tf.math.log(tf.maximum(1 - kept, _LEAST)))
        added = self._gradient(insisting, expert_weights)
        unlearning = self._gradient(_cross_entropy(tf, self._expert.graph_logits(shown), wrong), expert_weights)
        own.learning_rate = rate
        own.apply([one + weight * more for one, more in zip(gradient, added, strict=True)], weights)
        experts.apply(unlearning, expert_weights)

    def _gradient(self, loss: Any, weights: Any) -> list[Any]:
        return list(self._tf.gradients(loss, weights, unconnected_gradients="zero"))


def _cross_entropy(tf: Any, logits: Any, labels: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
