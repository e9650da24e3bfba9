"""Logits and gradients of a Keras model in compiled functions, traced on first use: a server that only predicts never traces them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Labels, Logits, Loss, LossGradient
from models.engines.image_gradient import fast_image_gradients

_TINY = 1e-30
_ROWS_AT_MOST = 256  # a backward pass holds all its activations: larger batches lose more in caches than they save in calls
_PADDED_TO = 16


class KerasGradients:
    """The differentiable half of a `KerasClassifier`.

    The loss is a NumPy function between the compiled forward and backward pass, an argument of each call, so that a new loss needs no
    new graph. Batches are padded to a power of two, beyond 16 to a multiple of 16: convolutions take some milliseconds to prepare for
    each new batch size.

    Args:
        raw_outputs: (images, training) -> the model's own output, as TensorFlow operations in float32.
        input_shape: (h, w, c) of one image.
        outputs: the kind of that output; probabilities from a softmax or a sigmoid are replaced by its argument.
        batch_size: largest number of images per pass.
    """

    def __init__(
        self,
        raw_outputs: Callable[[Any, bool], Any],
        input_shape: tuple[int, int, int],
        *,
        outputs: Literal["probabilities", "logits"],
        batch_size: int,
    ) -> None:
        self._raw_outputs, self._shape, self._outputs = raw_outputs, input_shape, outputs
        self._batch_size = min(batch_size, _ROWS_AT_MOST)
        self._losses: dict[int, Callable[[Logits], Logits]] = {}
        self._tickets = itertools.count()

    def logits(self, images: Images) -> Logits:
        """See `DifferentiableClassifier.logits`."""
        parts = [self._compiled_logits(padded).numpy()[:rows] for padded, rows, _ in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self._classes), np.float32)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """See `DifferentiableClassifier.loss_gradient`."""
        if not len(images):
            return LossGradient(np.empty(0, np.float32), np.empty((0, self._classes), np.float32), images.copy())
        parts = [self._pass(padded, rows, labels[start : start + rows], loss) for padded, rows, start in self._batches(images)]
        if len(parts) == 1:
            return parts[0]
        return LossGradient(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """See `DifferentiableClassifier.class_gradients`."""
        parts = [self._compiled_class_gradients(padded).numpy()[:rows] for padded, rows, _ in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self._classes, *self._shape), np.float32)

    def _pass(self, padded: Images, rows: int, labels: Labels, loss: Loss) -> LossGradient:
        seen: list[NDArray[np.float32]] = []

        def derivative(logits: Logits) -> Logits:
            values, by_logits = loss(logits[:rows], labels)
            scale = powers_of_two(by_logits)
            seen.extend((values, scale))
            whole = np.zeros_like(logits)
            whole[:rows] = by_logits / scale
            return whole

        ticket = next(self._tickets)
        self._losses[ticket] = derivative
        try:
            logits, gradient = self._compiled_gradient(padded, ticket)
        finally:
            del self._losses[ticket]
        values, scale = seen
        return LossGradient(values, logits.numpy()[:rows], gradient.numpy()[:rows] * scale[:, :, None, None])

    def _batches(self, images: Images) -> Iterator[tuple[Any, int, int]]:
        """(padded batch, number of its rows that are images, position of its first image)."""
        tf = self._tf
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            rows = len(batch)
            padding = min(_padded(rows), self._batch_size) - rows
            if padding:
                batch = np.concatenate([batch, np.zeros((padding, *self._shape), np.float32)])
            yield tf.constant(batch, tf.float32), rows, start

    @property
    def _tf(self) -> Any:
        return sys.modules["tensorflow"]

    @cached_property
    def _classes(self) -> int:
        return int(self._compiled_logits.get_concrete_function().output_shapes[1])

    @cached_property
    def _signature(self) -> Any:
        return self._tf.TensorSpec([None, *self._shape], self._tf.float32)

    @cached_property
    def _compiled_logits(self) -> Any:
        return self._tf.function(self.graph_logits, input_signature=[self._signature], autograph=False)

    @cached_property
    def _compiled_gradient(self) -> Any:
        tf = self._tf

        def gradient(images: Any, ticket: Any) -> Any:
            with fast_image_gradients(images.graph):
                logits = self.graph_logits(images)
            by_logits = tf.numpy_function(self._derivative, [logits, ticket], tf.float32)
            by_logits.set_shape(logits.shape)
            return logits, *tf.gradients(logits, images, by_logits, unconnected_gradients="zero")

        signature = [self._signature, tf.TensorSpec([], tf.int64)]
        return tf.function(gradient, input_signature=signature, autograph=False)

    @cached_property
    def _compiled_class_gradients(self) -> Any:
        tf = self._tf

        def gradients(images: Any) -> Any:
            with fast_image_gradients(images.graph):
                columns = tf.unstack(self.graph_logits(images), axis=1)
            return tf.stack([tf.gradients(column, images, unconnected_gradients="zero")[0] for column in columns], axis=1)

        return tf.function(gradients, input_signature=[self._signature], autograph=False)

    def _derivative(self, logits: Logits, ticket: NDArray[np.int64]) -> Logits:
        return self._losses[int(ticket)](logits)

    def graph_logits(self, images: Any, training: bool = False) -> Any:
        """Logits [n, k] as TensorFlow operations in the graph that is being traced."""
        tf = self._tf
        raw = self._raw_outputs(images, training)
        single = raw.shape[1] == 1
        if self._outputs == "logits":
            logits = raw
        else:
            logits = _argument_of(raw, "Sigmoid" if single else "Softmax")
            if logits is None:
                logits = tf.math.log(tf.maximum(raw, _TINY))
                if single:
                    logits -= tf.math.log(tf.maximum(1 - raw, _TINY))
        return tf.concat([-logits / 2, logits / 2], axis=1) if single else logits


def powers_of_two(by_logits: Logits) -> NDArray[np.float32]:
    """The power of two [n, 1] of the order of each row's largest derivative: small numbers divided by it pass the network without
    becoming 0 on the way, and no digit is lost."""
    largest = np.abs(by_logits).max(axis=1, keepdims=True)
    exponents = np.clip(np.frexp(np.where(np.isfinite(largest), largest, 0))[1], -126, 127)
    scale: NDArray[np.float32] = np.ldexp(np.float32(1), exponents)
    return scale


def _padded(rows: int) -> int:
    """The padded size of a batch of `rows` images."""
    return -(-rows // _PADDED_TO) * _PADDED_TO if rows > _PADDED_TO else 1 << (rows - 1).bit_length()


def _argument_of(tensor: Any, kind: str) -> Any:
    """The argument of the operation of this kind whose result is the tensor; None for another operation."""
    while tensor.op.type in ("Identity", "Cast"):
        tensor = tensor.op.inputs[0]
    return sys.modules["tensorflow"].cast(tensor.op.inputs[0], "float32") if tensor.op.type == kind else None
