"""One ONNX graph from images to probabilities around a model from elsewhere.

The graph of a bundle's model.onnx maps images float32 [n, h, w, c] in [0, 1] to probabilities float32 [n, k], whatever the model inside
it wants and returns: its `Preparation` and its head are nodes of the graph. What serves it needs ONNX Runtime and no `onnx`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.engines.onnx_checks import check_model, image_input, model_output, shape_of
from models.engines.onnx_passes import rewrite
from models.engines.reading.onnx_layers import METADATA, layers_of
from models.errors import InvalidInput

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from models.preparation import Outputs, Preparation

BYTES_PER_ROW = "hauberk.bytes_per_row"
"""The name in a model's metadata of the bytes that its largest step takes for one image."""

_ROWS = "n"
# The first in which weights need not be inputs is 4; 8 is that of operator set 18's time.
_IR_VERSION = 8


def composed(
    model: ModelProto,
    *,
    preparation: Preparation,
    outputs: Outputs,
    input_shape: tuple[int, int, int],
    output_name: str | None = None,
    name: str = "the model",
) -> ModelProto:
    """A graph from images float32 [n, h, w, c] in [0, 1] to probabilities float32 [n, k] around a model.

    Args:
        preparation: how the model wants its images.
        outputs: what it returns; one column is a sigmoid, k columns a distribution.
        input_shape: (h, w, c) of an image; dimensions that the model leaves open get these sizes.
        output_name: which of several outputs.
        name: what messages call the model.

    Raises: InvalidInput: a model that does not map one image to one row of classes.
    """
    import onnx

    check_model(model, name)
    within = onnx.ModelProto()
    within.CopyFrom(model)
    taken, given = image_input(within, name), model_output(within, name, output_name)
    shape = _input_shape(shape_of(taken), preparation.shape(input_shape), name)
    around = _Nodes(within)
    around.prepare(taken, preparation, input_shape, shape)
    declared = shape_of(given)
    _open_rows(within, taken, shape)
    columns = _columns(within, given.name, declared, name)
    around.head(given.name, given.type.tensor_type.elem_type, columns, outputs)
    return _finished(within, around, input_shape, max(columns, 2), name)


def _input_shape(own: tuple[int | None, ...], image: tuple[int, int, int], name: str) -> tuple[int, ...]:
    """The shape of one image at the model's input: also flat, and without the one channel of a grey image."""
    flat, plain = (math.prod(image),), tuple(size for size in image if size != 1)
    for wanted in (image, flat, plain):
        if len(own) == len(wanted) and all(a in (None, b) for a, b in zip(own, wanted, strict=True)):
            return wanted
    raise InvalidInput(
        f"expected a model whose input is one image {image}, but that of {name} is {own}; is its layout another one?"
    )


def _open_rows(model: ModelProto, taken: ValueInfoProto, shape: Sequence[int]) -> None:
    """Let a graph take any number of images: shapes that were written down for one are inferred again."""
    del model.graph.value_info[:]
    dims = taken.type.tensor_type.shape
    del dims.dim[:]
    dims.dim.add().dim_param = _ROWS
    for size in shape:
        dims.dim.add().dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def _columns(model: ModelProto, output: str, declared: Sequence[int | None], name: str) -> int:
    """The number of the output's columns: as inferred, or as declared where an operation has no inference of shapes."""
    inferred = _inferred(model, name)
    dims = next(value for value in inferred.graph.output if value.name == output).type.tensor_type.shape.dim
    columns = [dim.dim_value for dim in dims[1:]] or list(declared)
    if len(columns) != 1 or not columns[0]:
        sizes = ", ".join(str(size or "?") for size in columns)
        raise InvalidInput(f"expected a model whose output is [n, classes], but that of {name} is [n{sizes and f', {sizes}'}]")
    if dims and dims[0].dim_value:
        raise InvalidInput(
            f"expected a model that takes any number of images, but {name} takes {dims[0].dim_value}; export it with a dynamic batch "
            "dimension"
        )
    return int(columns[0])


def _inferred(model: ModelProto, name: str) -> ModelProto:
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    except Exception as failure:
        raise InvalidInput(f"the shapes in {name} contradict each other: {_first_line(failure)}") from failure


class _Nodes:
    """The nodes around a model, with names that it does not use."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self._count = model, 0
        used = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._prefix = "hauberk."
        while any(name.startswith(self._prefix) for name in used):
            self._prefix = "_" + self._prefix
        self.images, self.probabilities = self._prefix + "images", self._prefix + "probabilities"
        self.before: list[NodeProto] = []
        self.after: list[NodeProto] = []

    def prepare(
        self, taken: ValueInfoProto, preparation: Preparation, image: tuple[int, int, int], shape: tuple[int, ...]
    ) -> None:
        """From the images to the model's input."""
        from onnx import TensorProto

        value = self.images
        wide = max(len(preparation.scale), len(preparation.offset)) > 1
        for kind, numbers, nothing in (("Mul", preparation.scale, 1.0), ("Add", preparation.offset, 0.0)):
            if set(numbers) != {nothing}:
                one = np.array(numbers, np.float32)
                # One number a channel is spread over a row of pixels: a loop over three numbers is slow.
                spread = np.tile(np.broadcast_to(one, image[2]), (image[1], 1)) if wide else one.reshape(())
                value = self._add(self.before, kind, value, self._constant(spread))
        if preparation.channels == "bgr":
            value = self._add(self.before, "Gather", value, self._constant(np.array([2, 1, 0], np.int64)), axis=3)
        if preparation.layout == "nchw":
            value = self._add(self.before, "Transpose", value, perm=[0, 3, 1, 2])
        if shape != preparation.shape(image):
            value = self._add(self.before, "Reshape", value, self._constant(np.array([-1, *shape], np.int64)))
        of_type = taken.type.tensor_type.elem_type
        if of_type == TensorProto.UINT8:
            bounds = [self._constant(np.array(bound, np.float32)) for bound in (0, 255)]
            value = self._add(self.before, "Clip", self._add(self.before, "Round", value), *bounds)
        if of_type != TensorProto.FLOAT:
            value = self._add(self.before, "Cast", value, to=of_type)
        self._rename(taken.name, value)
        taken.name = value

    def head(self, raw: str, of_type: int, columns: int, outputs: Outputs) -> None:
        """From the model's output to the probabilities."""
        from onnx import TensorProto

        value = raw if of_type == TensorProto.FLOAT else self._add(self.after, "Cast", raw, to=TensorProto.FLOAT)
        if columns == 1 and outputs == "logits":
            # Its logits are -z/2 and z/2; ONNX Runtime's sigmoid(-20) is 0, the softmax's is not.
            halves = self._constant(np.array([[-0.5, 0.5]], np.float32))
            self._end("Softmax", self._add(self.after, "Mul", value, halves), axis=1)
        elif columns == 1:
            self._end("Concat", self._add(self.after, "Sub", self._constant(np.array(1, np.float32)), value), value, axis=1)
        elif outputs == "logits":
            self._end("Softmax", value, axis=1)
        else:
            self._end("Identity", value)

    def _add(self, nodes: list[NodeProto], kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self._count += 1
        output = f"{self._prefix}{kind.lower()}_{self._count}"
        nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _end(self, kind: str, *inputs: str, **attributes: Any) -> None:
        self._add(self.after, kind, *inputs, **attributes)
        self.after[-1].output[0] = self.probabilities

    def _constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._count += 1
        name = f"{self._prefix}constant_{self._count}"
        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _rename(self, old: str, new: str) -> None:
        """Read `new` where the graph, or a branch of it, reads `old`."""
        for node in _all_nodes(self._model.graph):
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new


def _all_nodes(graph: Any) -> list[NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += _all_nodes(inner)
    return found


def _finished(model: ModelProto, around: _Nodes, input_shape: tuple[int, int, int], classes: int, name: str) -> ModelProto:
    from onnx import TensorProto, checker, helper

    graph = model.graph
    nodes = [*around.before, *graph.node, *around.after]
    # Also weights that are inputs: what a caller could replace is no constant, and is not optimised.
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    model.ir_version = max(model.ir_version, _IR_VERSION)
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(around.images, TensorProto.FLOAT, [_ROWS, *input_shape]))
    graph.output.append(helper.make_tensor_value_info(around.probabilities, TensorProto.FLOAT, [_ROWS, classes]))
    try:
        checker.check_model(model, full_check=False)
    except Exception as failure:  # the checker's kinds, and those of what it calls
        raise InvalidInput(f"{name} is no valid ONNX model: {_first_line(failure)}") from failure
    rewrite(model)
    helper.set_model_props(model, {BYTES_PER_ROW: str(bytes_per_row(model)), **_described(model)})
    return model


def _described(model: ModelProto) -> dict[str, str]:
    """The layers that can be read, for where `onnx` is not installed; of a model that does not run, none: who opens it is told."""
    try:
        return {METADATA: layers_of(model).as_text()}
    except InvalidInput:
        return {}


def bytes_per_row(model: ModelProto) -> int:
    """The bytes of the largest step's input and output for one image, of the shapes that can be inferred."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {value.name: _bytes(value) for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return max(sum(sizes.get(name, 0) for name in (*node.input, *node.output)) for node in inferred.node)


def _bytes(value: ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    return 4 * math.prod(dim.dim_value or 1 for dim in dims) if len(dims) > 1 else 0


def _first_line(failure: Exception) -> str:
    return next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)[:300]
