"""Fine-tuning: continue training a copy of a Keras classifier on new data, clean or poisoned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import Dataset
from models.engines.channels_first import as_channels_last
from models.engines.float32 import in_float32
from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.twins.capabilities import Capabilities
from models.errors import InvalidInput

Shown = Callable[[KerasClassifier, Dataset], Dataset]
"""(the copy as it is by now, a batch of the data) -> what the copy is trained on in its place."""


def fine_tune(
    classifier: KerasClassifier,
    data: Dataset,
    *,
    epochs: int = 3,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    shown: Shown | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> KerasClassifier:
    """A copy of the classifier, trained on `data` with Adam and a cosine-decayed step size; the given classifier is not changed.

    The copy has the same architecture, input range, kind of output and labels; frozen layers stay frozen. Layers of half precision are
    trained in float32.

    Args:
        epochs: passes over the data, >= 1.
        learning_rate: the first step size.
        batch_size: images per step, >= 1.
        seed: of shuffling and dropout; the same seed, data and thread count give the same weights.
        shown: what takes the place of each batch, by the copy as it is then; the batch itself when not given.
        on_epoch: called with (epoch, loss).

    Raises: InvalidInput: epochs or batch_size below 1, images of another shape, unknown labels,
        a model that cannot be copied or has no trainable weights.
    """
    if epochs < 1 or batch_size < 1:
        raise InvalidInput(f"expected epochs and batch_size >= 1, got {epochs} and {batch_size}")
    check_training_data(classifier, data)
    tf = import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = _copy(classifier.model)
    steps = -(-len(data) // batch_size) * epochs
    logits = classifier.outputs == "logits"
    single = model.outputs[0].shape[1] == 1
    loss = keras.losses.BinaryCrossentropy if single else keras.losses.SparseCategoricalCrossentropy
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        loss(from_logits=logits),
        jit_compile=False,
    )
    with in_float32(model), as_channels_last(model):
        if shown is not None:
            _fit_shown(like(classifier, model), data, shown, epochs=epochs, batch_size=batch_size, seed=seed, on_epoch=on_epoch)
        else:
            report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, float(logs["loss"])))
            model.fit(*_as_trained(classifier, data), batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[report])
    return like(classifier, model)


def _fit_shown(
    copy: KerasClassifier,
    data: Dataset,
    shown: Shown,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> None:
    """Batch by batch, since Keras's own loop prepares batches ahead of the weights that `shown` is to see."""
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        order, total = rng.permutation(len(data)), 0.0
        starts = range(0, len(data), batch_size)
        for start in starts:
            batch = shown(copy, data.take(order[start : start + batch_size]))
            total += float(copy.model.train_on_batch(*_as_trained(copy, batch)))
        on_epoch(epoch, total / len(starts))


def _as_trained(classifier: KerasClassifier, data: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and labels as Keras trains the model on them."""
    single = classifier.model.outputs[0].shape[1] == 1
    labels = data.labels[:, None].astype(np.float32) if single else data.labels
    return as_input(classifier, data.images), labels


def copy_of(classifier: KerasClassifier) -> KerasClassifier:
    """A copy of the classifier with its own weights. Raises: InvalidInput: a model that cannot be copied or has no trainable weights."""
    return like(classifier, _copy(classifier.model))


def like(classifier: KerasClassifier, model: Any) -> KerasClassifier:
    """A classifier around a model of the same architecture, with the labels and preparation of `classifier`."""
    return KerasClassifier(
        model,
        labels=classifier.labels,
        input_shape=classifier.input_shape,
        preparation=classifier.preparation,
        outputs=classifier.outputs,
        batch_size=classifier.batch_size,
    )


def _copy(model: Any) -> Any:
    try:
        copy = type(model).from_config(model.get_config())
        copy.set_weights(model.get_weights())
    except Exception as failure:  # subclassed models may fail to describe themselves, with any exception
        raise InvalidInput(
            f"expected a model that can be copied from its configuration, but {type(model).__name__} cannot; "
            "build it from layers with keras.Sequential or keras.Model(inputs, outputs)"
        ) from failure
    if not copy.trainable_weights:
        raise InvalidInput(f"expected a model with trainable weights, got {model.name}, all of whose layers are frozen")
    return copy


def as_input(classifier: KerasClassifier, images: NDArray[np.float32]) -> NDArray[Any]:
    """The images as the model itself takes them."""
    own = classifier.model.inputs[0].shape[1:]
    sizes = classifier.preparation.shape(classifier.input_shape) if len(own) == 3 else classifier.input_shape
    shape = [size if size is not None else wanted for size, wanted in zip(own, sizes, strict=False)]
    return classifier.preparation.apply(images, shape=shape)


def check_training_data(classifier: KerasClassifier, data: Dataset) -> None:
    """Check that data fit the classifier.

    Raises: InvalidInput: no images, another shape, unknown labels, a classifier that is no Keras model.
    """
    if not isinstance(classifier, KerasClassifier):
        raise InvalidInput(Capabilities.of(classifier).lacks_training("fine-tuning"))
    if not len(data):
        raise InvalidInput("expected at least one image to train on, got none")
    if data.images.shape[1:] != classifier.input_shape:
        wanted = ", ".join(map(str, classifier.input_shape))
        raise InvalidInput(f"expected images [n, {wanted}] as the classifier takes them, got {list(data.images.shape)}")
    classes = len(classifier.labels)
    if not 0 <= int(data.labels.min()) <= int(data.labels.max()) < classes:
        raise InvalidInput(f"expected labels from 0 to {classes - 1}, the classes of the model, got {data.labels.max()}")
