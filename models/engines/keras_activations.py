"""Activations of any layer of any Keras model, in one compiled function per layer.

Layers are found by watching one call: while TensorFlow traces the model, the input and the output of every layer are recorded. That
works for Sequential, functional, subclassed and nested models, which need not have a graph of layers.

Maps are read with their channels last, whatever a layer's own layout, as those of ONNX graphs are (`reading/onnx_layers.py`): where the
channels are is followed through the operations, as layers of activations, sums and scales do not say it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from models.classifier import Activations, Images, LayeredAnswers, LayeredPass
from models.engines.float32 import in_float32, layers_inside
from models.engines.image_gradient import fast_image_gradients
from models.engines.reading.features import MapShape, chosen, poolings
from models.engines.reading.layers import one_of, position, side_of_squares
from models.errors import InvalidInput

_MAP_RANK = 4  # [n, h, w, c]
_CHANNELS_FIRST, _CHANNELS_LAST = 1, 3  # axes of a map
_OF_MAPS = {"Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MaxPool", "AvgPool"}
"""TensorFlow's operations on maps that say where the channels are."""
_KERNEL_RANK = 2  # kernels are matrices or larger; scales and offsets (batch normalisation, PReLU) are vectors


@dataclass(frozen=True)
class _Call:
    """One layer's call in the watched pass: its first argument and its result, a tensor with a row per image."""

    name: str
    layer: Any
    given: Any
    returned: Any


class _Seen(NamedTuple):
    """What one traced pass showed: the names of all layers, of the hidden and the earlier one, and the blocks."""

    names: tuple[str, ...]
    hidden: str | None
    earlier: str | None
    blocks: dict[str, MapShape]


class KerasActivations:
    """Activations of a model's layers; each layer's function is traced on its first use.

    The default layer is the last hidden one, the input of the classification head. The head is the layer with a kernel nearest to the
    output; layers without one (softmax, dropout, batch normalisation, pooling) are skipped.

    Args:
        raw_outputs: images -> the model's own output, as TensorFlow operations; in inference mode.
        model: the Keras model that `raw_outputs` calls.
        input_shape: (h, w, c) of one image.
        head: the model's own output -> probabilities, as operations.
        batch_size: largest number of images per pass.

    Cost: a forward pass per image up to the layer; the model is traced once per layer asked for.
    """

    def __init__(
        self,
        raw_outputs: Callable[[Any], Any],
        model: Any,
        input_shape: tuple[int, int, int],
        *,
        head: Callable[[Any], Any],
        batch_size: int,
    ) -> None:
        self._raw_outputs, self._model, self._shape, self._batch_size = raw_outputs, model, input_shape, batch_size
        self._head = head
        self._passes: dict[tuple[str, ...], LayeredPass] = {}
        self._compiled: dict[int | None, Any] = {}
        self._transposed: dict[int | None, Any] = {}

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The readable layers in order of computation: `outer/inner` for nested ones, `name#2` for a second call."""
        return self._seen.names

    @property
    def hidden_layer(self) -> str:
        """The layer read by default. Raises: InvalidInput: no layer of the model has a kernel."""
        names, hidden = self._seen.names, self._seen.hidden
        if hidden is None:
            raise InvalidInput(f"expected a model with a classification head, but no layer has a kernel; name {one_of(names)}")
        return hidden

    @property
    def earlier_layer(self) -> str | None:
        """The last feature map [h, w, c] before the hidden layer; None in networks without feature maps."""
        return self._seen.earlier

    @property
    def blocks(self) -> dict[str, MapShape]:
        """The convolution blocks before the hidden layer, and (h, w, c) of their maps.

        A block is a layer with a kernel and the maps that follow, up to the next such layer; its output is the last of them.
        """
        return dict(self._seen.blocks)

    def layered(self, layers: tuple[str, ...]) -> LayeredPass:
        """The forward pass with the features of these blocks, see `reading.features`. Raises: InvalidInput: no such block."""
        if layers not in self._passes:
            chosen(self.blocks, layers)
            self._passes[layers] = self._layered([self.layers.index(layer) for layer in layers])
        return self._passes[layers]

    def _layered(self, places: Sequence[int]) -> LayeredPass:
        tf, batch_size = self._tf, self._batch_size

        def answered(images: Any) -> Any:
            calls, output = self._watched(images)
            return self._head(output), tf.concat([_features(tf, calls[at].returned) for at in places], axis=1)

        compiled = self._traced(answered)
        widths = [int(shape[1]) for shape in compiled.output_shapes]

        def answer(images: Images) -> LayeredAnswers:
            probabilities, features = (np.empty((len(images), width), np.float32) for width in widths)
            for start in range(0, len(images), batch_size):
                rows = slice(start, min(start + batch_size, len(images)))
                outputs = compiled(tf.constant(images[rows], tf.float32))
                probabilities[rows], features[rows] = (made.numpy() for made in outputs)
            return LayeredAnswers(probabilities, features)

        return answer

    def __call__(self, images: Images, layer: str | int | None = None) -> Activations:
        """Activations float32 [n, d] of images float32 [n, h, w, c] in [0, 1], flattened.

        Args:
            layer: a name, or a position in `layers`; the last hidden layer when not given.

        Raises: InvalidInput: no such layer; the message lists the existing ones.
        """
        compiled = self._function(layer)
        width = int(compiled.output_shapes[1])
        activations = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            activations[start : start + len(batch)] = compiled(self._tf.constant(batch, self._tf.float32)).numpy()
        return activations

    def gradients(self, images: Images, layer: str | int | None, by_activations: Activations) -> Images:
        """Backpropagate a gradient by a layer's activations [n, d] to one by the images [n, h, w, c].

        Cost: a forward and a backward pass per image up to the layer. Raises: InvalidInput, as a call.
        """
        compiled = self._backward(None if layer is None else position(self.layers, layer))
        constant, float32 = self._tf.constant, self._tf.float32
        found = np.empty_like(images)
        for start in range(0, len(images), self._batch_size):
            rows = slice(start, start + self._batch_size)
            found[rows] = compiled(constant(images[rows], float32), constant(by_activations[rows], float32)).numpy()
        return found

    def _backward(self, at: int | None) -> Any:
        if at not in self._transposed:
            tf = self._tf

            def gradient(images: Any, by_activations: Any) -> Any:
                with fast_image_gradients(images.graph), in_float32(self._model):
                    activations = self._read(at, images)
                return tf.gradients(activations, images, grad_ys=by_activations)[0]

            signature = [tf.TensorSpec([None, *self._shape], tf.float32), tf.TensorSpec([None, None], tf.float32)]
            self._transposed[at] = tf.function(gradient, input_signature=signature, autograph=False).get_concrete_function()
        return self._transposed[at]

    def _read(self, at: int | None, images: Any) -> Any:
        """The layer's activations [n, d] as operations in the graph that is being traced."""
        calls, output = self._watched(images)
        return _flat(self._tf, _last_hidden(calls, output) if at is None else calls[at].returned)

    def _function(self, layer: str | int | None) -> Any:
        at = None if layer is None else position(self.layers, layer)
        if at not in self._compiled:
            if at is None:
                _ = self.hidden_layer  # raises where there is none
            self._compiled[at] = self._traced(partial(self._read, at))
        return self._compiled[at]

    @cached_property
    def _seen(self) -> _Seen:
        seen: list[_Seen] = []

        def look(images: Any) -> Any:
            calls, output = self._watched(images)
            names = tuple(call.name for call in calls)
            seen.append(_Seen(names, _hidden_name(calls, output), _earlier_name(calls, output), _blocks(calls, output)))
            return output

        self._traced(look)
        return seen[-1]

    def _watched(self, images: Any) -> tuple[list[_Call], Any]:
        """The calls of one traced pass, and the model's output."""
        calls: list[_Call] = []
        with _watching(self._model, images.graph, calls):
            output = self._raw_outputs(images)
        return calls, output

    def _traced(self, function: Callable[[Any], Any]) -> Any:
        signature = [self._tf.TensorSpec([None, *self._shape], self._tf.float32)]
        return self._tf.function(function, input_signature=signature, autograph=False).get_concrete_function()

    @property
    def _tf(self) -> Any:
        return sys.modules["tensorflow"]


@contextmanager
def _watching(model: Any, graph: Any, calls: list[_Call]) -> Iterator[None]:
    """Record every call of a layer inside the model whose result is in this graph; other threads' calls pass unrecorded."""
    within: list[str] = []
    counts: dict[str, int] = {}

    def watch(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            within.append(layer.name)
            path = "/".join(within)
            try:
                returned = call(*args, **kwargs)
            finally:
                within.pop()
            if getattr(returned, "graph", None) is graph and returned.shape.rank is not None and returned.shape.rank >= 2:
                counts[path] = counts.get(path, 0) + 1
                name = path if counts[path] == 1 else f"{path}#{counts[path]}"
                calls.append(_Call(name, layer, args[0] if args else next(iter(kwargs.values()), None), returned))
            return returned

        return noted

    # Set in the instance dictionary, because Keras's attribute tracking would take it for a change of the model.
    layers = {id(layer): layer for layer in layers_inside(model)}.values()
    own = {id(layer): layer.__dict__["call"] for layer in layers if "call" in layer.__dict__}
    for layer in layers:
        layer.__dict__["call"] = watch(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]
            if id(layer) in own:
                layer.__dict__["call"] = own[id(layer)]


def _head(calls: Sequence[_Call], output: Any) -> _Call | None:
    """The call of a layer with a kernel nearest to the output, found breadth first over its operations."""
    with_kernel = {call.returned.name: call for call in calls if _has_kernel(call.layer) and hasattr(call.given, "op")}
    todo, seen = [output], {output.name}
    for tensor in todo:
        if tensor.name in with_kernel:
            return with_kernel[tensor.name]
        for source in tensor.op.inputs:
            if source.name not in seen:
                seen.add(source.name)
                todo.append(source)
    return None


def _has_kernel(layer: Any) -> bool:
    """Whether this layer itself, not one inside it, has a kernel."""
    return not any(True for _ in layers_inside(layer)) and any(len(weight.shape) >= _KERNEL_RANK for weight in layer.weights)


def _last_hidden(calls: Sequence[_Call], output: Any) -> Any:
    """The head's input as the layer before returned it: what only moves axes in between is no layer."""
    head = _head(calls, output)
    if head is None:
        return None
    returned, source = {call.returned.name: call.returned for call in calls}, head.given
    while source.name not in returned and source.op.type == "Transpose":
        source = source.op.inputs[0]
    return returned.get(source.name, head.given)


def _hidden_name(calls: Sequence[_Call], output: Any) -> str | None:
    """The name of the layer that computed the head's input; layers without effect at inference, such as dropout, are skipped."""
    head, hidden = _head(calls, output), _last_hidden(calls, output)
    if head is None:
        return None
    made_by = [call.name for call in calls if call.returned is hidden]
    return made_by[0] if made_by else f"the input of {head.name}"


def _earlier_name(calls: Sequence[_Call], output: Any) -> str | None:
    hidden = _last_hidden(calls, output)
    earlier = list(itertools.takewhile(lambda call: call.returned is not hidden, calls))
    maps = [call.name for call in earlier if _is_map(call.returned)]
    return maps[-1] if maps else None


def _blocks(calls: Sequence[_Call], output: Any) -> dict[str, MapShape]:
    hidden = _last_hidden(calls, output)
    found: list[_Call] = []
    for call in itertools.takewhile(lambda call: call.returned is not hidden, calls):
        if not _is_map(call.returned) or None in call.returned.shape[1:]:
            continue
        if _has_kernel(call.layer):
            found.append(call)
        elif found:
            found[-1] = call
    return {call.name: _map_shape(call.returned) for call in found}


def _map_shape(tensor: Any) -> MapShape:
    sizes = [int(size) for size in tensor.shape[1:]]
    c, h, w = sizes if _channels(tensor) == _CHANNELS_FIRST else (sizes[2], sizes[0], sizes[1])
    return h, w, c


def _features(tf: Any, tensor: Any) -> Any:
    """The features [n, d] of a map, see `reading.features`."""
    shape, maps = _map_shape(tensor), tf.cast(tensor, tf.float32)
    if _channels(tensor) == _CHANNELS_FIRST:
        maps = tf.transpose(maps, (0, 2, 3, 1))
    for side in poolings(shape):
        maps = tf.nn.avg_pool2d(maps, side, side, "SAME")
    return tf.reshape(maps, [-1, int(np.prod(maps.shape[1:]))])


def _is_map(tensor: Any) -> bool:
    """Whether a tensor is a map of more than one pixel: what a pooling of the whole map leaves has no spatial detail."""
    if tensor.shape.rank != _MAP_RANK:
        return False
    pixels = tensor.shape[2:] if _channels(tensor) == _CHANNELS_FIRST else tensor.shape[1:3]
    return tuple(pixels) != (1, 1)


def _channels(tensor: Any) -> int:
    """The axis of a map's channels: that of the nearest operation before it that says so, moved by the transpositions since."""
    moved: list[list[int]] = []
    axis = _CHANNELS_LAST  # of images, and where nothing says otherwise
    while tensor.op.type != "Placeholder":
        operation = tensor.op
        if operation.type in _OF_MAPS:
            axis = _CHANNELS_FIRST if operation.get_attr("data_format") == b"NCHW" else _CHANNELS_LAST
            break
        if operation.type == "Transpose":
            order = sys.modules["tensorflow"].get_static_value(operation.inputs[1])
            if order is None:
                break
            moved.append(order.tolist())
        maps = [each for each in operation.inputs if each.shape.rank == _MAP_RANK and each.shape[0] is None]
        if operation.type == "Reshape" or not maps:
            break
        tensor = maps[0]
    for order in reversed(moved):
        axis = order.index(axis)
    return axis


def _flat(tf: Any, tensor: Any) -> Any:
    """[n, ...] as float32 [n, d], maps with their channels last; large ones are averaged over squares first (see `layers`)."""
    tensor = tf.cast(tensor, tf.float32)
    if tensor.shape.rank == _MAP_RANK:
        if _channels(tensor) == _CHANNELS_FIRST:
            tensor = tf.transpose(tensor, (0, 2, 3, 1))
        if None not in tensor.shape[1:]:
            tensor = _pooled(tf, tensor)
    width = int(np.prod([size if size is not None else -1 for size in tensor.shape[1:]]))
    if width < 0:
        raise InvalidInput(f"expected a layer of fixed size, got one of shape {tuple(tensor.shape)}; name another layer")
    return tf.reshape(tensor, [-1, width])


def _pooled(tf: Any, maps: Any) -> Any:
    side = side_of_squares(*maps.shape[1:])
    return maps if side == 1 else tf.nn.avg_pool2d(maps, side, side, "SAME")
