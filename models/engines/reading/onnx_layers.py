"""The readable layers of an ONNX graph: which of its tensors count, their shapes, and where their channels are.

A graph has no layers, it has nodes: a layer of a framework becomes several (a product, a bias, an activation function), and nodes that
only change the layout come between them. A tensor counts as a layer when it has a row an image, when it is no mere change of layout, and
when it does not only go into an activation function or a bias. What is done to the image before the first product of weights is no layer.

*Hidden* is the input of the head: of the product with weights nearest to the output, found breadth first. *Earlier* is the last feature
map of more than one pixel before it. Both are those that `keras_activations` finds in the model of Keras that a graph was converted from.

Where channels are is followed through the graph, as products and poolings of maps have them first and transpositions say what they do.
Shapes are those of a run, on two and on three images, so that no operation needs an inference of shapes.

`onnx` is needed here and is not installed where models are only served: what is found is written into the model's metadata, which ONNX
Runtime reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.classifier import Activations
from models.engines.reading.layers import flattened
from models.errors import InvalidInput

METADATA = "hauberk.layers"
"""The key of a model's metadata under which its layers are written."""

_WEIGHTED = {"Conv", "ConvTranspose", "ConvInteger", "Gemm", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"}
_OWN_WEIGHTS = {"LinearClassifier", "LinearRegressor"}  # in attributes, not in an input
_CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"}
_OF_MAPS = {
    *_CONVOLUTIONS,
    *("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth"),
}
"""Operations whose maps have their channels first."""
_RELAYOUT = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout"}
_NEW_SHAPE = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_FUNCTIONS = {
    *(
        "Relu",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Celu",
        "Selu",
        "Gelu",
        "Mish",
        "Swish",
        "HardSwish",
        "HardSigmoid",
    ),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Clip"),
}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_FLOATS = (np.float16, np.float32, np.float64)
_MAP_AXES = 3  # of one image
_TENSORS_AT_ONCE = 32  # all of a large network's together take a gigabyte
_FIRST, _LAST = 1, 3  # axes of the channels of a map [n, c, h, w] and [n, h, w, c]


Order = Literal["plain", "map", "flattened"]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph with a row an image.

    Attributes:
        shape: of one image's; of a flattened map (c, h, w), that of the map.
        order: of the numbers: "plain" also for (h, w, c), "map" for (c, h, w), "flattened" for what a (c, h, w) was flattened to.
    """

    shape: tuple[int, ...]
    order: Order = "plain"

    @property
    def is_map(self) -> bool:
        """Whether it is a feature map of more than one pixel."""
        pixels = self.shape[1:] if self.order == "map" else self.shape[:-1]
        return len(self.shape) == _MAP_AXES and self.order != "flattened" and tuple(pixels) != (1, 1)

    def activations(self, outputs: NDArray[Any]) -> Activations:
        """What the graph returned for it, [n, ...], as activations [n, d] with the channels last."""
        if self.order == "plain":
            return flattened(outputs)
        last = np.ascontiguousarray(outputs.reshape(len(outputs), *self.shape).transpose(0, 2, 3, 1))
        return flattened(last if self.order == "map" else last.reshape(len(last), int(np.prod(self.shape))))


@dataclass(frozen=True)
class OnnxLayers:
    """The layers of a graph.

    Attributes:
        tensors: by name, all that can be read.
        names: of those that count as layers, in order of computation.
        hidden, earlier: see the module; None where there is none.
        blocks: outputs of convolution blocks before the hidden layer: the last map that follows a convolution before the next one. None
            in models from before there was a use for them.
    """

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    hidden: str | None
    earlier: str | None
    blocks: tuple[str, ...] | None = None

    def as_text(self) -> str:
        """For the model's metadata."""
        tensors = {name: [tensor.order, *tensor.shape] for name, tensor in self.tensors.items()}
        found = {"names": self.names, "hidden": self.hidden, "earlier": self.earlier, "blocks": self.blocks}
        return json.dumps({"tensors": tensors, **found})

    @classmethod
    def from_text(cls, text: str) -> OnnxLayers:
        """Raises: InvalidInput: no such text."""
        try:
            read = json.loads(text)
            tensors = {str(name): _tensor(order, shape) for name, (order, *shape) in read["tensors"].items()}
            blocks = None if read.get("blocks") is None else tuple(map(str, read["blocks"]))
            found = cls(tensors, tuple(map(str, read["names"])), read["hidden"], read["earlier"], blocks)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
            raise InvalidInput(
                f"expected the layers of the model under {METADATA!r} in its metadata, which cannot be read"
            ) from failure
        if unknown := {*found.names, *filter(None, (found.hidden, found.earlier)), *(found.blocks or ())} - tensors.keys():
            raise InvalidInput(
                f"expected layers of the model under {METADATA!r} in its metadata, got {sorted(unknown)[0]}, which is none"
            )
        return found


def _tensor(order: Any, shape: Sequence[Any]) -> Tensor:
    if order not in get_args(Order) or (order != "plain" and len(shape) != _MAP_AXES):
        raise ValueError
    return Tensor(tuple(map(int, shape)), order)


def layers_of(model: Any) -> OnnxLayers:
    """The layers of an `onnx.ModelProto` that maps one batch of images to outputs. Cost: a pass of five images for every 32 tensors.

    Raises: InvalidInput: a model that does not run.
    """
    graph = _Graph(model.graph)
    tensors = graph.tensors(_shapes(model, graph))
    hidden = graph.head_input()
    hidden = hidden if hidden in tensors else None
    counting = [name for name in tensors if name == hidden or graph.counts(name)]
    before = counting[: counting.index(hidden)] if hidden is not None else []
    maps = [name for name in before if tensors[name].is_map]
    return OnnxLayers(tensors, tuple(counting), hidden, maps[-1] if maps else None, graph.blocks(tensors, before))


class _Graph:
    """The nodes of a graph, by what they make, and what they make of the image."""

    def __init__(self, graph: Any) -> None:
        constants = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
        self.inputs = [given.name for given in graph.input if given.name not in constants]
        self.outputs = [made.name for made in graph.output]
        self.nodes = list(graph.node)
        self.made_by = {name: node for node in self.nodes for name in node.output if name}
        self.of_the_image = self._reached()
        self.plain = self._plain()
        self.channels = self._channels()

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The tensors of these shapes, with the order of their numbers."""
        maps = {name for name, shape in shapes.items() if len(shape) == _MAP_AXES and self.channels.get(name, _FIRST) == _FIRST}
        found: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            node = self.made_by[name]
            of_map = next((given for given in self.given(node) if given in maps), None)
            if name in maps:
                found[name] = Tensor(shape, "map")
            elif of_map is not None and node.op_type in ("Reshape", "Flatten") and shape == (int(np.prod(shapes[of_map])),):
                found[name] = Tensor(shapes[of_map], "flattened")
            else:
                found[name] = Tensor(shape)
        return found

    def given(self, node: Any) -> list[str]:
        """The inputs of a node that depend on the image."""
        return [name for name in node.input if name in self.of_the_image]

    def counts(self, name: str) -> bool:
        """Whether a tensor is a layer's result."""
        if name in self.plain or self.made_by[name].op_type in _RELAYOUT:
            return False
        users = [node for node in self.nodes if name in node.input]
        return not (len(users) == 1 and name not in self.outputs and self._is_inner(users[0]))

    def blocks(self, tensors: Mapping[str, Tensor], counting: Sequence[str]) -> tuple[str, ...]:
        """Of these layers, the last of each convolution block; those whose channels are not first are left out."""
        found: list[str] = []
        for name, tensor in tensors.items():
            if not tensor.is_map or tensor.order != "map":
                continue
            if self.made_by[name].op_type in _CONVOLUTIONS:
                found.append(name)
            elif found and name in counting:
                found[-1] = name
        return tuple(name for name in found if name in counting)

    def head_input(self) -> str | None:
        """The image's share of the input of the product with weights nearest to the output."""
        todo, seen = list(self.outputs), set(self.outputs)
        for name in todo:
            node = self.made_by.get(name)
            if node is None:
                continue
            if self._is_weighted(node):
                return self.given(node)[0]
            fresh = [given for given in self.given(node) if given not in seen]
            seen.update(fresh)
            todo.extend(fresh)
        return None

    def _is_weighted(self, node: Any) -> bool:
        given = self.given(node)
        return len(given) == 1 and (node.op_type in _WEIGHTED or node.op_type in _OWN_WEIGHTS)

    def _is_inner(self, node: Any) -> bool:
        """Whether a node finishes what the product before it began."""
        return node.op_type in _FUNCTIONS or (node.op_type in {*_ARITHMETIC, "BatchNormalization"} and len(self.given(node)) == 1)

    def _reached(self) -> set[str]:
        reached = set(self.inputs)
        for node in self.nodes:  # in topological order, as ONNX demands
            if not reached.isdisjoint(node.input):
                reached.update(name for name in node.output if name)
        return reached

    def _plain(self) -> set[str]:
        """The image itself, and what is done to it before the first product of weights."""
        plain = set(self.inputs)
        for node in self.nodes:
            given = self.given(node)
            if (
                len(given) == 1
                and given[0] in plain
                and node.op_type in {*_RELAYOUT, *_ARITHMETIC, "Gather", "Slice", "Concat", "Shape"}
            ):
                plain.update(name for name in node.output if name)
        return plain

    def _channels(self) -> dict[str, int]:
        """The axis of the channels by tensor, as far as the graph says."""
        known = dict.fromkeys(self.inputs, _LAST)
        for node in self.nodes:
            if node.op_type in _OF_MAPS:
                known |= dict.fromkeys((*self.given(node)[:1], *node.output[:1]), _FIRST)
        for _ in range(2):  # forwards through what keeps the layout, backwards, and forwards again
            for node in (*self.nodes, *reversed(self.nodes)):
                known |= {name: axis for name, axis in self._passed(node, known) if name not in known}
        return known

    def _passed(self, node: Any, known: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """What is known about the inputs of a node, said of its outputs, and the other way round."""
        order = _permutation(node)
        for given in self.given(node):
            for made in node.output:
                if order is not None and given in known and known[given] in order:
                    yield made, order.index(known[given])
                elif order is not None and made in known and known[made] < len(order):
                    yield given, order[known[made]]
                elif node.op_type not in _NEW_SHAPE and given in known:
                    yield made, known[given]
                elif node.op_type not in _NEW_SHAPE and made in known:
                    yield given, known[made]


def _permutation(node: Any) -> list[int] | None:
    if node.op_type != "Transpose":
        return None
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)


def _shapes(model: Any, graph: _Graph) -> dict[str, tuple[int, ...]]:
    """Of one image's row, by tensor in order of computation: of those whose first axis grows with the images."""
    import onnx

    names = [name for node in graph.nodes for name in node.output if name in graph.of_the_image]
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    two, three = (_run(open_model, names, images) for images in (2, 3))
    return {name: two[name][1:] for name in names if _grows(two[name], three[name])}


def _grows(two: tuple[int, ...], three: tuple[int, ...]) -> bool:
    return min(len(two), len(three)) >= 2 and (two[0], three[0]) == (2, 3) and two[1:] == three[1:]


def _run(model: Any, names: Sequence[str], images: int) -> dict[str, tuple[int, ...]]:
    """The shapes of these tensors, () of what is no array of floats."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # which would fold nodes that are asked for
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        [given] = session.get_inputs()
        shape = [images, *(size if isinstance(size, int) else 1 for size in given.shape[1:])]
        zeros = {given.name: np.zeros(shape, np.float32)}
        shapes = dict[str, tuple[int, ...]]()
        for start in range(0, len(names), _TENSORS_AT_ONCE):
            few = names[start : start + _TENSORS_AT_ONCE]
            shapes |= {name: _shape(array) for name, array in zip(few, session.run(few, zeros), strict=True)}
    except Exception as failure:  # ONNX Runtime raises a dozen kinds, all of them its own
        reason = str(failure).strip().split("\n")[0][:200]
        raise InvalidInput(f"expected an ONNX model whose layers can be read, but it does not run: {reason}") from failure
    return shapes


def _shape(array: Any) -> tuple[int, ...]:
    return array.shape if isinstance(array, np.ndarray) and array.dtype in _FLOATS else ()
