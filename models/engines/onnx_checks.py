"""Checks of an ONNX model from elsewhere: what ONNX Runtime cannot compute, and what is no classifier of images, is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import InvalidInput

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

OPSETS = (7, 26)
"""The operator sets that ONNX Runtime computes; a model of one outside them is refused by number."""

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_OPERATORS_NAMED = 5


def check_model(model: ModelProto, name: str) -> None:
    """Whether ONNX Runtime can compute a model's graph. Raises: InvalidInput: operations of its own, another operator set."""
    own = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _known_domains(model)})
    if own:
        more = f" and {len(own) - _OPERATORS_NAMED} more" if len(own) > _OPERATORS_NAMED else ""
        raise InvalidInput(
            f"expected ONNX's own operations, but {name} needs {', '.join(own[:_OPERATORS_NAMED])}{more}, which is code that is never "
            "loaded; export it with standard operations only"
        )
    version = opset(model)
    if not OPSETS[0] <= version <= OPSETS[1]:
        raise InvalidInput(
            f"expected an ONNX model of operator set {OPSETS[0]} to {OPSETS[1]}, but {name} has {version}; export it with opset 18"
        )


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 where it says none."""
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def image_input(model: ModelProto, name: str) -> ValueInfoProto:
    """The one input of a model. Raises: InvalidInput: none or several, or one that is no tensor of numbers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[ValueInfoProto] = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        said = ", ".join(value.name for value in inputs)
        raise InvalidInput(f"expected a model with one input, the images, but {name} has {len(inputs)}{said and f' ({said})'}")
    _check_tensor(inputs[0], name, "input", what_to_do="export it without the conversion in front")
    return inputs[0]


def model_output(model: ModelProto, name: str, wanted: str | None = None) -> ValueInfoProto:
    """The output that tells the classes apart: the one called `wanted`, or the only one.

    Raises: InvalidInput: no such output, several where none was named, one of text or of dictionaries.
    """
    by_name: dict[str, ValueInfoProto] = {value.name: value for value in model.graph.output}
    names = list(by_name)
    if wanted is not None and wanted not in names:
        raise InvalidInput(f"expected one of the outputs of {name}, {', '.join(names)}, got {wanted!r}")
    if wanted is None and len(names) != 1:
        raise InvalidInput(
            f"{name} has {len(names)} outputs, {', '.join(names)}; say which one tells the classes apart (--output NAME)"
        )
    output = by_name[wanted or names[0]]
    _check_tensor(output, name, "output", what_to_do="name another one (--output), or export it without the last conversion")
    return output


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...]:
    """A tensor's shape, without the images' axis; None where it is open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)[1:]


def _known_domains(model: ModelProto) -> frozenset[str]:
    return _DOMAINS | {function.domain for function in model.functions}


def _check_tensor(value: ValueInfoProto, name: str, what: str, *, what_to_do: str) -> None:
    from onnx import TensorProto

    kind = value.type.WhichOneof("value")
    numbers = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8)
    if kind == "tensor_type" and value.type.tensor_type.elem_type in numbers:
        return
    words = {
        "sequence_type": "a sequence",
        "map_type": "a dictionary",
        "optional_type": "optional",
        "sparse_tensor_type": "sparse",
    }
    found = words.get(kind or "", "of no type")
    if kind == "tensor_type":
        found = f"a tensor of {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()}"
    raise InvalidInput(f"expected a tensor of floats as {what} of {name}, but {value.name!r} is {found}; {what_to_do}")
