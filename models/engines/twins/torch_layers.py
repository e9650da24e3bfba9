"""The readable layers of an exported program of PyTorch: nodes of its graph with a row an image, each read through a graph cut there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Activations
from models.engines.reading.layers import flattened, one_of, position, side_of_squares, spread
from models.errors import InvalidInput

_WEIGHTED = ("linear", "addmm", "mm", "matmul", "convolution", "conv1d", "conv2d", "conv3d")
_RELAYOUT = (
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "t",
    "dropout",
    "clone",
    "contiguous",
    "to",
    "_to_copy",
    "detach_",
)
_MAP_AXES = 3  # of one image
_SURE = {1: ("sigmoid",), 2: ("softmax", "_softmax", "_safe_softmax")}
"""What ends a program in probabilities, by its number of columns: one, or several."""
_SAME = ("to", "_to_copy", "clone", "contiguous")


@dataclass(frozen=True)
class LayerCut:
    """A graph that ends at a node.

    Attributes:
        read: the program's input -> the node's value.
        sure: whether a softmax or a sigmoid was cut off behind it.
    """

    read: Callable[[Any], Any]
    sure: bool = False


class TorchLayers:
    """The layers of a graph module of one placeholder and one output."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._given = next(node for node in module.graph.nodes if node.op == "placeholder")
        self._nodes = {node.name: node for node in module.graph.nodes if self._has_rows(node)}
        head = self._head()
        self.names = tuple(name for name, node in self._nodes.items() if node is head or _operation(node) not in _RELAYOUT)
        self._cuts: dict[str, LayerCut] = {}

    @property
    def output(self) -> Any:
        """The node that the program returns. Raises: InvalidInput: none, or several."""
        returned = next(node for node in self._module.graph.nodes if node.op == "output").args[0]
        values = (
            list(returned.values())
            if isinstance(returned, dict)
            else list(returned)
            if isinstance(returned, tuple | list)
            else [returned]
        )
        if len(values) != 1 or values[0].name not in self._nodes:
            raise InvalidInput(f"expected a program with one output [n, classes], got {len(values)}")
        return values[0]

    @property
    def hidden(self) -> str:
        """The input of the product with weights nearest to the output. Raises: InvalidInput: there is none."""
        head = self._head()
        if head is None:
            raise InvalidInput(
                f"expected a program with a classification head, but no node has a kernel; name {one_of(self.names)}"
            )
        return str(head.name)

    @property
    def earlier(self) -> str | None:
        """The last feature map of more than one pixel before the hidden layer."""
        order = list(self._nodes)
        before = order[: order.index(self.hidden)] if self.hidden in self._nodes else []
        maps = [name for name in before if name in self.names and _is_map(self._nodes[name])]
        return maps[-1] if maps else None

    def logits(self, *, probabilities: bool) -> LayerCut:
        """The program, cut before the softmax or sigmoid that it ends in where it returns probabilities."""
        last = self.output
        columns = last.meta["val"].shape[-1]
        while probabilities and _operation(last) in _SAME:
            last = last.args[0]
        if probabilities and _operation(last) in _SURE[min(int(columns), 2)]:
            return LayerCut(self._cut(last.args[0]), sure=True)
        return LayerCut(self._cut(self.output))

    def reader(self, layer: str | int | None) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
        """The graph cut at a layer, with its channels last, and the shape of a row there. Raises: InvalidInput: no such layer."""
        name = self.hidden if layer is None else layer
        if name not in self._nodes:
            name = self.names[position(self.names, name)]
        node = self._nodes[str(name)]
        if name not in self._cuts:
            self._cuts[str(name)] = LayerCut(self._cut(node))
        read, shape = self._cuts[str(name)].read, _row(node)
        if len(shape) == _MAP_AXES:
            return lambda images: read(images).permute(0, 2, 3, 1), (*shape[1:], shape[0])
        of_map = _flattened_map(node)
        if of_map is not None:
            return lambda images: _reordered(read(images), of_map), shape
        return read, shape

    def _cut(self, node: Any) -> Callable[[Any], Any]:
        import torch

        graph = torch.fx.Graph()
        copied: dict[Any, Any] = {}
        graph.graph_copy(self._module.graph, copied)
        graph.output(copied[node])
        graph.eliminate_dead_code()
        cut: Callable[[Any], Any] = torch.fx.GraphModule(self._module, graph)
        return cut

    def _has_rows(self, node: Any) -> bool:
        value = node.meta.get("val")
        if node.op != "call_function" or not hasattr(value, "shape") or not value.is_floating_point() or value.ndim < 2:
            return False
        return bool(value.shape[0] == self._given.meta["val"].shape[0]) and all(isinstance(size, int) for size in value.shape[1:])

    def _head(self) -> Any:
        todo, seen = [self.output], {self.output}
        for node in todo:
            inputs = [given for given in node.all_input_nodes if given.name in self._nodes or given is self._given]
            if _operation(node) in _WEIGHTED and len(inputs) == 1:
                return inputs[0]
            todo.extend(given for given in inputs if given not in seen)
            seen.update(inputs)
        return None


def read_out(values: Any) -> Activations:
    """The values of a node [n, ...], channels last, as activations [n, d]."""
    return flattened(np.ascontiguousarray(values.detach().numpy()))


def read_in(by_activations: Activations, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The adjoint of `read_out`: a gradient by activations [n, d] as one by the values [n, *shape]."""
    rows = len(by_activations)
    if len(shape) != _MAP_AXES:
        return by_activations.reshape(rows, *shape)
    h, w, c = shape
    side = side_of_squares(h, w, c)
    squares = by_activations.reshape(rows, -(-h // side), -(-w // side), c)
    return squares if side == 1 else spread(squares, (h, w, c), side)


def _row(node: Any) -> tuple[int, ...]:
    return tuple(map(int, node.meta["val"].shape[1:]))


def _flattened_map(node: Any) -> tuple[int, ...] | None:
    """The (c, h, w) that a node flattens, where it does."""
    value = node.args[0].meta.get("val") if node.args and hasattr(node.args[0], "meta") else None
    if _operation(node) not in ("flatten", "view", "reshape") or value is None or value.ndim != _MAP_AXES + 1:
        return None
    shape = tuple(map(int, value.shape[1:]))
    return shape if _row(node) == (int(np.prod(shape)),) else None


def _reordered(values: Any, shape: tuple[int, ...]) -> Any:
    """A flattened (c, h, w) as the same numbers of (h, w, c)."""
    return values.reshape(-1, *shape).permute(0, 2, 3, 1).reshape(len(values), -1)


def _operation(node: Any) -> str:
    """The name of an ATen operation without its overload."""
    target = node.target
    return str(getattr(target, "overloadpacket", target)).rpartition(".")[2]


def _is_map(node: Any) -> bool:
    shape = _row(node)
    return len(shape) == _MAP_AXES and shape[1:] != (1, 1)
