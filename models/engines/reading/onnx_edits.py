"""Edits of serialized ONNX models without `onnx`, which is not installed where models are only served.

Serialized messages of protocol buffers are merged when they are concatenated: repeated fields of the second are appended to those of the
first. Further nodes and outputs of a graph are therefore some bytes behind the model:

    ModelProto { graph (7): GraphProto { node (1): ..., output (12): ValueInfoProto { name (1): a tensor } } }

ONNX Runtime finds the types and the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.engines.reading.features import MapShape, poolings

FEATURES = "hauberk.features"
"""The output that `with_features` adds."""
_NUMBER, _DELIMITED = 0, 2  # wire types: of numbers, and of strings and messages
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_OUTPUT, _VALUE_NAME = 7, 1, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_KIND, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 4, 8, 20
_INT, _TEXT, _INTS = 2, 3, 7  # types of attributes
_Attributes = Mapping[str, int | str | tuple[int, ...]]


def with_output(model: bytes, name: str) -> bytes:
    """A serialized model whose graph has this tensor as a further output.

    >>> with_output(b"", "a")
    b':\\x05b\\x03\\n\\x01a'
    """
    return model + _field(_MODEL_GRAPH, _field(_GRAPH_OUTPUT, _text(_VALUE_NAME, name)))


def with_features(model: bytes, blocks: Mapping[str, MapShape]) -> bytes:
    """A serialized model that has the features of these maps, channels first in the graph, as a further output [n, d]."""
    nodes, flat = bytearray(), []
    for number, (name, shape) in enumerate(blocks.items()):
        value = name
        for level, side in enumerate(poolings(shape)):
            made = f"{FEATURES}.{number}.pooled.{level}"
            sides: _Attributes = {"kernel_shape": (side, side), "strides": (side, side), "auto_pad": "SAME_UPPER"}
            nodes += _node("AveragePool", [value], made, sides)
            value = made
        last = f"{FEATURES}.{number}.last"
        nodes += _node("Transpose", [value], last, {"perm": (0, 2, 3, 1)})
        flat.append(f"{FEATURES}.{number}")
        nodes += _node("Flatten", [last], flat[-1], {"axis": 1})
    nodes += _node("Concat", flat, FEATURES, {"axis": 1})
    return with_output(model + _field(_MODEL_GRAPH, bytes(nodes)), FEATURES)


def _node(kind: str, inputs: Sequence[str], output: str, attributes: _Attributes) -> bytes:
    """A node as a field of the graph."""
    fields = [_text(_NODE_INPUT, name) for name in inputs]
    fields += [_text(_NODE_OUTPUT, output), _text(_NODE_NAME, output), _text(_NODE_KIND, kind)]
    fields += [_field(_NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    return _field(_GRAPH_NODE, b"".join(fields))


def _attribute(name: str, value: int | str | tuple[int, ...]) -> bytes:
    if isinstance(value, str):
        kind, content = _TEXT, _text(_ATTRIBUTE_TEXT, value)
    elif isinstance(value, int):
        kind, content = _INT, _number(_ATTRIBUTE_INT, value)
    else:
        kind, content = _INTS, b"".join(_number(_ATTRIBUTE_INTS, one) for one in value)
    return _text(_ATTRIBUTE_NAME, name) + content + _number(_ATTRIBUTE_TYPE, kind)


def _text(number: int, content: str) -> bytes:
    return _field(number, content.encode())


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _NUMBER) + _varint(value)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
