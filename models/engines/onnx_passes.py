"""Rewriting of ONNX graphs before they are stored: what ONNX Runtime's own optimiser leaves, and costs a model time.

Each pass replaces nodes by others of the same value up to rounding. None depends on the machine: calibration rewrites a bundle's graph
once, and compares it with its source afterwards. What does depend on it (the layout of blocked convolutions, fused kernels) ONNX
Runtime does when it loads the graph. `python -m benchmarks engines` measures them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_CHANNELS_LAST = [0, 2, 3, 1]
# Of a sum of ramps: more of them are faster as a convolution.
_RAMPS_AT_MOST = 4


def rewrite(model: ModelProto) -> None:
    """Apply every pass to a model, in place."""
    graph = Graph(model)
    graph.open_shapes()
    graph.flatten_before_dense()
    graph.sum_ramps()
    graph.drop_unused()


class Graph:
    """A model's graph with what the passes ask of it: who makes and who reads a value, and which values are constant."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph: GraphProto = model.graph
        self._count = 0
        self._look()

    def open_shapes(self) -> None:
        """Reshape to [-1, ...] where a shape is computed from the number of images alone: Keras's Flatten takes seven nodes for it."""
        known = _inferred_shapes(self._model)
        for node in self._of("Reshape"):
            rest = known.get(node.output[0], ())[1:]
            computed = node.input[1] not in self._constants
            if computed and rest and all(rest):
                node.input[1] = self._constant(np.array([-1, *rest], np.int64))
        self._look()

    def flatten_before_dense(self) -> None:
        """Transpose, Reshape, MatMul -> Reshape, MatMul: the transposition is that of the weights' rows, done once."""
        known = _inferred_shapes(self._model)
        for multiply in self._of("MatMul"):
            reshape = self._made_by(multiply.input[0], "Reshape")
            transpose = reshape and self._made_by(reshape.input[0], "Transpose")
            weights = self._constants.get(multiply.input[1])
            if reshape is None or transpose is None or weights is None or _ints(transpose, "perm") != _CHANNELS_LAST:
                continue
            shape, flat = known.get(transpose.output[0], ())[1:], known.get(reshape.output[0], ())
            if len(flat) != 2 or len(shape) != 3 or not all(shape) or weights.shape[:-1] != (np.prod(shape),):
                continue
            rows = weights.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(weights.shape)
            multiply.input[1] = self._constant(np.ascontiguousarray(rows))
            reshape.input[0] = transpose.input[0]
        self._look()

    def sum_ramps(self) -> None:
        """Conv 1x1 from one channel to few, Relu, Conv 1x1 to one -> a sum of ramps: sum_i v_i relu(w_i x + b_i).

        Convolutions of one value by one value are computed in blocks of eight channels or more, most of them padding; element by
        element the ramps take a sixth of the time (docs/decisions/0015). `v_i relu(z)` is `sign(v_i) relu(|v_i| z)`, which saves a
        product.
        """
        for second in list(self._of("Conv")):
            relu = self._made_by(second.input[0], "Relu")
            first = relu and self._made_by(relu.input[0], "Conv")
            if first is None or not (self._is_pointwise(first) and self._is_pointwise(second)):
                continue
            (w, b), (v, c) = self._weights(first), self._weights(second)
            if w.shape[1] != 1 or v.shape[0] != 1 or w.shape[0] > _RAMPS_AT_MOST:
                continue
            nodes = list(self._ramps(first.input[0], w.ravel(), b, v.ravel(), c.item(), second.output[0]))
            place = list(self._graph.node).index(second)
            del self._graph.node[place]
            for node in reversed(nodes):
                self._graph.node.insert(place, node)
            self._look()

    def drop_unused(self) -> None:
        """Remove the nodes and weights that nothing reads any more."""
        wanted = {output.name for output in self._graph.output}
        kept: list[NodeProto] = []
        for node in reversed(self._graph.node):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= _read_by(node)
        weights = [tensor for tensor in self._graph.initializer if tensor.name in wanted]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(reversed(kept))
        self._graph.initializer.extend(weights)

    def _look(self) -> None:
        from onnx import numpy_helper

        nodes = self._graph.node
        self._makers = {output: node for node in nodes for output in node.output}
        self._readers = Counter(name for node in nodes for name in _read_by(node))
        self._readers.update(output.name for output in self._graph.output)
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer}

    def _of(self, kind: str) -> Iterator[NodeProto]:
        return (node for node in self._graph.node if node.op_type == kind and node.domain in ("", "ai.onnx"))

    def _made_by(self, value: str, kind: str) -> NodeProto | None:
        """The node of this kind that makes a value for one reader only."""
        node: NodeProto | None = self._makers.get(value)
        return node if node is not None and node.op_type == kind and self._readers[value] == 1 else None

    def _is_pointwise(self, node: NodeProto) -> bool:
        weights = self._constants.get(node.input[1])
        known_bias = len(node.input) < 3 or node.input[2] in self._constants
        plain = not any(_ints(node, "pads")) and set(_ints(node, "strides")) <= {1} and _ints(node, "group") in ([], [1])
        return known_bias and plain and weights is not None and weights.ndim == 4 and weights.shape[2:] == (1, 1)

    def _weights(self, node: NodeProto) -> tuple[NDArray[Any], NDArray[Any]]:
        weights = self._constants[node.input[1]]
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weights), weights.dtype)
        return weights, bias

    def _ramps(self, x: str, w: NDArray[Any], b: NDArray[Any], v: NDArray[Any], c: float, output: str) -> Iterator[NodeProto]:
        # A positive ramp first, from which the others are added or subtracted; without one, the constant.
        order = np.argsort(v < 0, kind="stable")
        total = "" if v.max() > 0 else self._constant(np.array(c, w.dtype))
        c = c if total == "" else 0.0
        for i in order:
            ramp = x
            for kind, number, nothing in (("Mul", w[i] * abs(v[i]), 1.0), ("Add", b[i] * abs(v[i]), 0.0)):
                if number != nothing:
                    yield (node := self._node(kind, ramp, self._constant(np.array(number, w.dtype))))
                    ramp = node.output[0]
            yield (node := self._node("Relu", ramp))
            if total:
                yield (node := self._node("Add" if v[i] > 0 else "Sub", total, node.output[0]))
            total = node.output[0]
        yield (
            self._node("Add", total, self._constant(np.array(c, w.dtype)), output=output)
            if c
            else self._node("Identity", total, output=output)
        )

    def _node(self, kind: str, *inputs: str, output: str = "") -> NodeProto:
        from onnx import helper

        return helper.make_node(kind, list(inputs), [output or self._name(kind.lower())])

    def _constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._constants[name] = value
        return name

    def _name(self, kind: str) -> str:
        """A name that nothing has."""
        self._count += 1
        name = f"rewritten.{kind}_{self._count}"
        return name if name not in self._makers and name not in self._constants else self._name(kind)


def _inferred_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every value for which it can be inferred; 0 where a dimension is open."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}


def _read_by(node: NodeProto) -> set[str]:
    """The values that a node reads, those of its branches and bodies included."""
    inner = (graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
    return {*node.input}.union(*(_read_by(one) for graph in inner for one in graph.node))


def _ints(node: NodeProto, name: str) -> list[int]:
    """A node's attribute of integers; empty where it has none."""
    from onnx import helper

    found: Any = next((helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name), [])
    return [found] if isinstance(found, int) else list(found)
