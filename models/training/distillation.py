"""Distillation: train a network on another classifier's probabilities, in one compiled loop that many trainings share.

Paper: Hinton, Vinyals & Dean 2015, arXiv:1503.02531 (at temperature 1, without true labels).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Probabilities
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.reference_classifier import Build, Recipe, reference_network

# 64 MiB of images per call: enough steps to make the call's overhead negligible, few enough for large images.
_NUMBERS_PER_CALL = 1 << 24


class Distillation:
    """A network, an optimiser and one compiled loop over training steps; every training starts from fresh weights.

    Maths: minimises the cross-entropy -sum_k t_k log f_k(x) of targets t; a one-hot target is a label.

    Args:
        input_shape: (h, w, c) of one image.
        classes: number of classes, k.
        recipe: how to train; its seed is not used, each training has its own.
        build: makes the network, a Keras model that ends in a softmax.
        threads: TensorFlow's threads, if it has not been started yet.

    Cost: one tracing on construction (under a second), then a forward and a backward pass per image and epoch.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        recipe: Recipe,
        build: Build = reference_network,
        threads: int | None = None,
    ) -> None:
        tf = import_tensorflow(threads)
        tf.config.experimental.enable_op_determinism()
        self._tf, self.recipe = tf, recipe
        self._shape, self._classes, self._build = input_shape, classes, build
        self._network = self._fresh(0)
        self._optimiser = recipe.build_optimiser(recipe.learning_rate)
        self._optimiser.build(self._network.trainable_variables)
        self._at_start = [variable.numpy() for variable in self._optimiser.variables]
        batches = [None, recipe.batch_size]
        signature = [
            tf.TensorSpec([*batches, *input_shape], tf.float32),
            tf.TensorSpec([*batches, classes], tf.float32),
            tf.TensorSpec([None], tf.float32),
        ]
        self._steps = tf.function(self._graph_steps, input_signature=signature, autograph=False).get_concrete_function()

    def train(self, images: Images, targets: Probabilities, *, seed: int, start: Any = None) -> Any:
        """Train on images [n, h, w, c] and targets [n, k], rows that sum to one.

        Args:
            seed: of weights, order and dropout; the same seed, data and thread count give the same weights.
            start: a model of the same build, whose weights training continues from.

        Returns: a Keras model. Raises: InvalidInput: no images, or targets of another shape.
        """
        if not len(images) or targets.shape != (len(images), self._classes):
            raise InvalidInput(
                f"expected targets [n, {self._classes}] of n >= 1 images, got {list(targets.shape)} of {len(images)}"
            )
        model = self._fresh(seed)
        if start is not None:
            model.set_weights(start.get_weights())
        for own, fresh in zip(self._network.variables, model.variables, strict=True):
            own.assign(fresh)
        for variable, value in zip(self._optimiser.variables, self._at_start, strict=True):
            variable.assign(value)
        order = self._order(len(images), seed)
        step_sizes = self._step_sizes(len(order))
        steps_a_call = max(1, _NUMBERS_PER_CALL // (self.recipe.batch_size * int(np.prod(self._shape))))
        for first in range(0, len(order), steps_a_call):
            some = slice(first, first + steps_a_call)
            given = (images[order[some]], targets[order[some]], step_sizes[some])
            self._steps(*(self._tf.constant(array, self._tf.float32) for array in given))
        model.set_weights(self._network.get_weights())
        return model

    def predict(self, model: Any, images: Images) -> Probabilities:
        """Probabilities [n, k] of a model of this build; one compiled function serves all of them."""
        self._network.set_weights(model.get_weights())
        return self._classifier.predict(images)

    def untrained(self, seed: int) -> Any:
        """The untrained model that a training with this seed starts from."""
        return self._fresh(seed)

    @cached_property
    def _classifier(self) -> KerasClassifier:
        return KerasClassifier(self._network)

    def _fresh(self, seed: int) -> Any:
        import keras

        keras.utils.set_random_seed(seed)  # the only way to seed the initialisers that `build` uses
        return self._build(self._shape, self._classes)

    def _order(self, samples: int, seed: int) -> NDArray[np.int64]:
        """Sample indices of every step [steps, batch]: one shuffle after another, cut into batches."""
        rng = np.random.default_rng(seed)
        stream = np.concatenate([rng.permutation(samples) for _ in range(self.recipe.passes(samples))])
        steps = -(-len(stream) // self.recipe.batch_size)
        return np.resize(stream, (steps, self.recipe.batch_size))

    def _step_sizes(self, steps: int) -> NDArray[np.float32]:
        whole = np.full(steps, self.recipe.learning_rate, np.float32)
        if self.recipe.decay == "cosine":
            whole *= (0.5 * (1 + np.cos(math.pi * np.arange(steps) / steps))).astype(np.float32)
        return whole

    def _graph_steps(self, images: Any, targets: Any, step_sizes: Any) -> Any:
        tf = self._tf
        import keras

        network, optimiser = self._network, self._optimiser

        def step(number: Any) -> Any:
            with tf.GradientTape() as tape:
                outputs = network(images[number], training=True)
                losses = keras.losses.categorical_crossentropy(targets[number], outputs)
                loss = tf.add_n([tf.reduce_mean(losses), *network.losses])
            optimiser.learning_rate = step_sizes[number]
            optimiser.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
            return number + 1

        return tf.while_loop(lambda number: number < tf.shape(step_sizes)[0], step, [0], parallel_iterations=1)
