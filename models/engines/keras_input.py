"""What stands between images and a Keras model: the shape of its input, and the preparation as operations of the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from models.classifier import has_channels_first
from models.errors import InvalidInput
from models.preparation import Layout, Preparation

Shape = tuple[int | None, ...]


def own_shape(model: Any) -> Shape:
    """The shape of one input of the model: (h, w, c), (c, h, w), (h, w) or (d,); None where it is open."""
    return tuple(model.inputs[0].shape[1:])


def takes_bytes(model: Any) -> bool:
    """Whether the model's input is of whole numbers."""
    return "int" in str(model.inputs[0].dtype)


def layout_of(own: Shape) -> Layout:
    """What the shape of a model's input says about its layout; "nhwc" where it does not."""
    return "nchw" if has_channels_first(own) else "nhwc"


def image_shape(own: Shape, wanted: tuple[int, int, int] | None, layout: Layout) -> tuple[int, int, int]:
    """The image shape (h, w, c) of a model with input shape `own`, given the shape of the data or the bundle.

    Raises: InvalidInput: another layout, images of another shape, or a shape that is not known.
    """
    _check_layout(own, layout)
    as_images = (own[1], own[2], own[0]) if layout == "nchw" and len(own) == 3 else own
    if len(as_images) == 3 and None not in as_images:
        shape: tuple[Any, ...] = as_images
    elif len(as_images) == 2 and None not in as_images:
        shape = (*as_images, 1)
    elif wanted is not None and _fits(as_images, wanted):
        return wanted
    else:
        raise InvalidInput(
            f"expected a model whose input is one image (h, w, c), (h, w) or (h * w * c), got {own} for images {wanted}"
        )
    if wanted is not None and shape != wanted:
        raise InvalidInput(f"expected images of the model's shape {shape}, got {wanted}")
    return shape


def in_graph(preparation: Preparation, own: Shape, shape: tuple[int, int, int]) -> Callable[[Any], Any]:
    """`Preparation.apply` as TensorFlow operations: images [n, h, w, c] in [0, 1] -> float32 at the model's input.

    Whole numbers are rounded, with the gradient of the identity: that of rounding is 0 everywhere, and an attacker would not follow it.

    Raises: InvalidInput: these images cannot be prepared so.
    """
    preparation.check(shape)
    tf = sys.modules["tensorflow"]
    sizes = preparation.shape(shape) if len(own) == 3 else shape
    target = [-1, *(size if size is not None else known for size, known in zip(own, sizes, strict=False))]
    scale, offset = (np.array(values, np.float32) for values in (preparation.scale, preparation.offset))
    changes = bool((scale != 1).any() or (offset != 0).any())

    def prepared(images: Any) -> Any:
        values = images * scale + offset if changes else images
        if preparation.channels == "bgr":
            values = tf.reverse(values, [-1])
        if preparation.layout == "nchw":
            values = tf.transpose(values, [0, 3, 1, 2])
        if preparation.dtype == "uint8":
            values = values + tf.stop_gradient(tf.clip_by_value(tf.round(values), 0, 255) - values)
        return tf.reshape(values, target)

    return prepared


def of_numbers(model: Any) -> Any:
    """The model itself, or for one that takes whole numbers the same layers behind an input of float32, through which gradients pass.

    Raises: InvalidInput: a model whose layers cannot be taken apart.
    """
    if not takes_bytes(model):
        return model
    import keras

    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype="float32")
    try:
        return keras.models.clone_model(model, input_tensors=inputs, clone_function=lambda layer: layer)
    except Exception as failure:  # subclassed models cannot be cloned, and say so with any exception
        raise InvalidInput(
            f"expected a model built with keras.Sequential or keras.Model(inputs, outputs) behind an input of "
            f"{model.inputs[0].dtype}, got {type(model).__name__}"
        ) from failure


def check_dtype(model: Any, preparation: Preparation) -> None:
    """Raises: InvalidInput: the model takes bytes and the preparation gives other numbers, or the reverse."""
    bytes_taken = takes_bytes(model)
    if bytes_taken and preparation.dtype != "uint8":
        raise InvalidInput(
            f"expected a preparation of uint8 for a model whose input is {model.inputs[0].dtype}, got {preparation.dtype}; "
            'give preparation=Preparation.of_range(0, 255, dtype="uint8")'
        )
    if not bytes_taken and preparation.dtype == "uint8":
        raise InvalidInput(f"expected a model whose input is uint8, as declared, got {model.inputs[0].dtype}")


def _check_layout(own: Shape, layout: Layout) -> None:
    if layout == "nhwc" and has_channels_first(own):
        raise InvalidInput(
            f"expected a model whose input is one image (h, w, c), got {own}, which has its channels first; say --layout nchw "
            '(in Python preparation=Preparation(layout="nchw"))'
        )
    if layout == "nchw" and len(own) == 3 and has_channels_first((own[2], own[0], own[1])):
        raise InvalidInput(f"expected a model whose input is one image (c, h, w), got {own}, which has its channels last")


def _fits(own: Shape, wanted: tuple[int, int, int]) -> bool:
    flat = len(own) == 1 and own[0] == int(np.prod(wanted))
    return flat or (len(own) == 3 and all(a in (None, b) for a, b in zip(own, wanted, strict=True)))
