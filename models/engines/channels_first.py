"""Keras layers that convolve and pool channels first, which TensorFlow does on GPUs only, traced as channels last within a context.

Around each such layer its input is transposed and its result transposed back, so that every tensor between layers keeps its shape; the
weights are the same, as kernels are stored in one order for both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from models.engines.float32 import layers_inside

_KINDS = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D")
_tracing = threading.RLock()


@contextmanager
def as_channels_last(model: Any) -> Iterator[None]:
    """Let the model's layers of channels first compute with channels last while it is traced."""
    first = {id(layer): layer for layer in layers_inside(model) if _is_channels_first(layer)}.values()
    if not first:
        yield
        return
    with _tracing:  # a second thread would take the calls of the first one's context for the layers' own
        # Set in the instance dictionary, because Keras's attribute tracking would take it for a change of the model.
        own = [(layer, layer.__dict__.get("call")) for layer in first]
        for layer in first:
            layer.__dict__["call"] = _transposed(layer, layer.call)
        try:
            yield
        finally:
            for layer, call in own:
                del layer.__dict__["call"]
                if call is not None:
                    layer.__dict__["call"] = call


def _is_channels_first(layer: Any) -> bool:
    return type(layer).__name__ in _KINDS and getattr(layer, "data_format", None) == "channels_first"


def _transposed(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    import keras

    def called(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        layer.__dict__["data_format"] = "channels_last"
        try:
            returned = call(keras.ops.transpose(inputs, (0, 2, 3, 1)), *args, **kwargs)
        finally:
            layer.__dict__["data_format"] = "channels_first"
        return keras.ops.transpose(returned, (0, 3, 1, 2))

    return called
