"""Train a binary network, reproducibly. TensorFlow does it; what comes out needs none."""

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
_SMALLEST_DEVIATION = 1e-3  # what never varies must not be blown up


def train_binary_network(
    no: Sequence[Samples],
    yes: Sequence[Samples],
    *,
    seed: int = 0,
    epochs: int = 8,
    on_epoch: Callable[[int, int], None] = lambda done, of: None,
) -> BinaryNetwork:
    """A network whose logit is above 0 for what is like `yes`.

    Both sides weigh the same, and within a side each array the same, however many samples it has. Inputs are standardised per channel (of
    vectors, per component); that map is folded into the first layer, so that the network takes them as they are.

    Args:
        no, yes: kinds of samples, all of one shape.
        epochs: passes over the samples. Adam, a step size of 0.002 that falls to 0 like a cosine.
        on_epoch: told (done, of).

    Returns: a `BinaryNetwork` of `default_layout`; the same seed, samples and thread count give the same weights.
    Raises: InvalidInput: a side without samples.
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
    """Give a Keras model of `keras_network` the weights of a network."""
    arrays = []
    parts = np.split(network.weights, np.cumsum(layer_weights(network.layout))[:-1])
    for part, layer in zip(parts, network.layout, strict=True):
        bias = int(layer[OUTPUTS])
        arrays += [part[:-bias].reshape(layer[[KERNEL_HEIGHT, KERNEL_WIDTH, INPUTS, OUTPUTS]]), part[-bias:]]
    model.set_weights(arrays)


def keras_network(layout: NDArray[np.int64], input_shape: tuple[int, int, int]) -> Any:
    """The same network in Keras, untrained."""
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
    """Mean and standard deviation per channel."""
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
    """Kernels and biases one after the other, the first layer for inputs that are not standardised: W / s and b - sum(W m / s)."""
    kernel, bias = arrays[0] / deviation[:, None], arrays[1]
    bias = bias - np.einsum("ijco,c->o", kernel, mean)
    return np.concatenate([array.ravel() for array in (kernel, bias, *arrays[2:])]).astype(np.float32)
