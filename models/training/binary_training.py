"""Reproducible training of binary networks, in TensorFlow; the trained network runs without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.binary_network import (
    INPUTS,
    KERNEL_HEIGHT,
    KERNEL_WIDTH,
    OUTPUTS,
    STRIDE,
    BinaryNetwork,
    default_layout,
    layer_weights,
)
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput

Samples = NDArray[np.float32]
"""float32 [n, h, w, c] or [n, d]."""

_LEARNING_RATE = 2e-3
_BATCH = 128
_SMALLEST_DEVIATION = 1e-3  # constant inputs must not be scaled up


def train_binary_network(
    no: Sequence[Samples],
    yes: Sequence[Samples],
    *,
    seed: int = 0,
    epochs: int = 8,
    on_epoch: Callable[[int, int], None] = lambda done, of: None,
) -> BinaryNetwork:
    """Train a network whose logit is above 0 for samples like `yes`.

    Both classes have equal weight, and so have the arrays within a class, whatever their length. Inputs are standardised per channel
    (vectors per component); the standardisation is folded into the first layer, so that the network takes raw inputs.

    Args:
        no, yes: arrays of samples of each class, one per kind, all of one shape.
        epochs: passes over the samples, with Adam and a step size of 0.002, cosine-decayed to 0.
        on_epoch: called with (epochs done, epochs in total).

    Returns: a `BinaryNetwork` of `default_layout`; the same seed, samples and thread count give the same weights.
    Raises: InvalidInput: a class without samples.
    """
    kinds = [*no, *yes]
    if not sum(map(len, no)) or not sum(map(len, yes)):
        raise InvalidInput(f"expected samples of both kinds, got {sum(map(len, no))} and {sum(map(len, yes))}")
    shape = kinds[0].shape[1:]
    h, w, c = shape if len(shape) == 3 else (1, 1, int(np.prod(shape)))
    samples = np.concatenate(kinds).reshape(-1, h, w, c)
    mean, deviation = _standard(samples)
    samples -= mean
    samples /= deviation
    targets = np.repeat([0.0, 1.0], [sum(map(len, no)), sum(map(len, yes))]).astype(np.float32)
    shares = [1 / (len(side) * max(len(kind), 1)) for side in (no, yes) for kind in side]
    weights = np.repeat(shares, [len(kind) for kind in kinds]).astype(np.float32)
    layout = default_layout((h, w, c))
    model = _fitted(layout, (samples, targets, weights / weights.mean()), seed=seed, epochs=epochs, on_epoch=on_epoch)
    return BinaryNetwork(weights=_flat(model.get_weights(), mean, deviation), layout=layout, input_shape=(h, w, c))


def assign(model: Any, network: BinaryNetwork) -> None:
    """Set the weights of a model from `keras_network` to those of a binary network."""
    arrays = []
    parts = np.split(network.weights, np.cumsum(layer_weights(network.layout))[:-1])
    for part, layer in zip(parts, network.layout, strict=True):
        bias = int(layer[OUTPUTS])
        arrays += [part[:-bias].reshape(layer[[KERNEL_HEIGHT, KERNEL_WIDTH, INPUTS, OUTPUTS]]), part[-bias:]]
    model.set_weights(arrays)


def keras_network(layout: NDArray[np.int64], input_shape: tuple[int, int, int]) -> Any:
    """An untrained Keras model of this layout."""
    import_tensorflow()
    import keras

    last = len(layout) - 1
    layers = [
        keras.layers.Conv2D(
            int(layer[OUTPUTS]),
            (int(layer[KERNEL_HEIGHT]), int(layer[KERNEL_WIDTH])),
            strides=int(layer[STRIDE]),
            activation="relu" if number < last else None,
        )
        for number, layer in enumerate(layout)
    ]
    return keras.Sequential([keras.Input(input_shape), *layers, keras.layers.Flatten()])


def _standard(samples: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per channel: [c], [c]."""
    mean = samples.mean(axis=(0, 1, 2), dtype=np.float64)
    square = np.einsum("nhwc,nhwc->c", samples, samples, dtype=np.float64) / (len(samples) * samples.shape[1] * samples.shape[2])
    deviation = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), _SMALLEST_DEVIATION)
    return mean.astype(np.float32), deviation.astype(np.float32)


def _fitted(
    layout: NDArray[np.int64], data: tuple[Any, Any, Any], *, seed: int, epochs: int, on_epoch: Callable[[int, int], None]
) -> Any:
    tf = import_tensorflow()
    import keras

    samples, targets, weights = data
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = keras_network(layout, samples.shape[1:])
    steps = -(-len(samples) // _BATCH) * epochs
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, epochs))
    model.fit(samples, targets, sample_weight=weights, batch_size=_BATCH, epochs=epochs, verbose=0, callbacks=[report])
    return model


def _flat(
    arrays: Sequence[NDArray[np.float32]], mean: NDArray[np.float32], deviation: NDArray[np.float32]
) -> NDArray[np.float32]:
    """All kernels and biases in one array, the first layer adapted to raw inputs: W / s and b - sum(W m / s)."""
    kernel, bias = arrays[0] / deviation[:, None], arrays[1]
    bias = bias - np.einsum("ijco,c->o", kernel, mean)
    return np.concatenate([array.ravel() for array in (kernel, bias, *arrays[2:])]).astype(np.float32)
