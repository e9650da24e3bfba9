"""SavedModel directories: the operations between a serving signature's inputs and outputs, with the values of their variables.

`tf.saved_model.load` would run what the directory asks for: functions that restore, initialise and fill tables, which may read and
write any file. Here only the graph is read. Of its nodes, those that lead to the signature's outputs are taken, when all of them are
on a list (`tensorflow_operations`), and their variables get their values from the checkpoint by this module. Nothing else of the
directory is used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.imports.foreign import Imported, listed, reason_of
from models.engines.imports.tensorflow_operations import OPERATIONS
from models.engines.keras import import_tensorflow
from models.engines.keras_export import graph_of
from models.errors import InvalidInput
from models.files import read_file

_GRAPH, _CHECKPOINT = "saved_model.pb", Path("variables") / "variables"
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_BYTES_AT_MOST = (1 << 31) - 1
_SIGNATURE = "serving_default"
_TAGS = ("serve",)
_VARIABLE = "VarHandleOp"
_TO_ONNX = "export it to ONNX where it was made: python -m tf2onnx.convert --saved-model DIRECTORY --output model.onnx"


def opened(path: Path, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    """See `models.engines.imports.imported`."""
    tf = import_tensorflow(threads)
    meta, signature = _read(path)
    [taken] = signature.inputs.values()
    given = [one.name for one in signature.outputs.values()]
    try:
        graph = _leading_to(meta.graph_def, given)
        _check_operations(graph, path.name)
        variables = {name: tf.Variable(value) for name, value in _values(tf, path, graph, meta.object_graph_def).items()}
        _rename_functions(graph)
        function = _function(tf, graph, variables, taken, given)
    except InvalidInput:
        raise
    except Exception as failure:  # graphs that contradict themselves raise a dozen kinds of exceptions
        raise _unreadable(path, failure) from failure

    def predict(inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return tuple(np.asarray(output) for output in function(tf.constant(inputs)))

    parameters = sum(int(np.prod(variable.shape)) for variable in variables.values())
    model = _named(graph_of(function), list(signature.outputs))
    return Imported(what="a SavedModel", model=model, predict_source=predict, parameters=parameters)


def _read(path: Path) -> tuple[Any, Any]:
    """The graph with what is known of it, and its serving signature. Raises: InvalidInput."""
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString(read_file(path / _GRAPH, at_most=_BYTES_AT_MOST))
    except Exception as failure:  # protobuf's own kinds, which differ between its implementations
        raise _unreadable(path, failure) from failure
    tagged = [one for one in saved.meta_graphs if set(_TAGS) <= set(one.meta_info_def.tags)]
    if not tagged:
        raise InvalidInput(f"expected a SavedModel to serve, but {path.name} has no graph tagged 'serve'; export it again")
    signatures = {name: one for name, one in tagged[0].signature_def.items() if one.outputs and not name.startswith("__")}
    if _SIGNATURE not in signatures and len(signatures) != 1:
        found = f"has {listed(signatures)}" if signatures else "has none"
        raise InvalidInput(
            f"expected a SavedModel with the signature {_SIGNATURE!r}, but {path.name} {found}; export it with that one"
        )
    signature = signatures.get(_SIGNATURE) or next(iter(signatures.values()))
    if len(signature.inputs) != 1:
        raise InvalidInput(
            f"expected a signature with one input, the images, but that of {path.name} has {listed(signature.inputs) or 'none'}"
        )
    return tagged[0], signature


def _check_operations(graph: Any, name: str) -> None:
    """Raises: InvalidInput: an operation that is not on the list, in the graph or in a function that it reaches."""
    functions = {function.signature.name: function for function in graph.library.function}
    todo, seen, unknown = [graph.node], set[str](), set[str]()
    for nodes in todo:
        for node in nodes:
            called = {one for one in _called(node) if one in functions}
            if node.op not in OPERATIONS and node.op not in functions:
                unknown.add(node.op)
            for one in sorted(called - seen):
                seen.add(one)
                todo.append(functions[one].node_def)
    if unknown:
        raise InvalidInput(
            f"expected a SavedModel of known operations, but {name} needs some that are not on the list ({listed(unknown)}); take files, "
            f"text and pictures out of the signature, or {_TO_ONNX}"
        )


def _called(node: Any) -> Iterator[str]:
    yield node.op
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        yield from (one.name for one in attribute.list.func)


def _leading_to(graph: Any, given: list[str]) -> Any:
    """A copy of the nodes of a graph that its outputs need, without its variables, and with all its functions."""
    nodes = {node.name: node for node in graph.node}
    todo = [name.partition(":")[0] for name in given]
    needed: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name not in needed:
            needed[name] = nodes[name]
            todo += [given.removeprefix("^").partition(":")[0] for given in nodes[name].input]
    copy = type(graph)()
    copy.versions.CopyFrom(graph.versions)
    copy.library.CopyFrom(graph.library)
    copy.node.extend(needed.values())
    for node in copy.node:
        node.attr.pop("_class", None)  # "beside that node", which may not be here
    return copy


def _rename_functions(graph: Any) -> None:
    """Give the functions of a graph names that no other graph of this process has, in place: TensorFlow keeps one list of them."""
    digest = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:16]
    names = {function.signature.name: f"__imported_{digest}_{number}" for number, function in enumerate(graph.library.function)}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            node.op = names.get(node.op, node.op)
            for attribute in node.attr.values():
                for called in [attribute.func] if attribute.HasField("func") else attribute.list.func:
                    called.name = names.get(called.name, called.name)


def _function(tf: Any, graph: Any, variables: dict[str, Any], taken: Any, given: list[str]) -> Any:
    """The graph as a function of the images, its variables given."""
    within = type(graph)()
    within.CopyFrom(graph)
    for place in reversed([place for place, node in enumerate(graph.node) if node.op == _VARIABLE]):
        del within.node[place]

    def call(images: Any) -> Any:
        handles = {f"{name}:0": images.graph.capture(variable.handle) for name, variable in variables.items()}
        for variable in variables.values():
            images.graph.watch_variable(variable)  # else its value is not found when it becomes a constant
        return tf.graph_util.import_graph_def(within, {taken.name: images, **handles}, return_elements=given)

    dims = None if taken.tensor_shape.unknown_rank else [dim.size if dim.size >= 0 else None for dim in taken.tensor_shape.dim]
    spec = tf.TensorSpec(dims, tf.dtypes.as_dtype(taken.dtype), name="images")
    wrapped = tf.compat.v1.wrap_function(call, [spec])
    return tf.function(wrapped, input_signature=[spec], autograph=False)


def _named(model: Any, names: list[str]) -> Any:
    """The graph with its outputs called as in the signature, in place."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    for output, name in zip(model.graph.output, names, strict=True):
        if name in taken:
            continue
        for node in model.graph.node:
            for held in (node.input, node.output):
                for place in [place for place, one in enumerate(held) if one == output.name]:
                    held[place] = name
        output.name = name
    return model


def _captured(graph: Any, objects: Any) -> dict[str, int]:
    """Which object of the program each variable of the graph is: a call names its own inputs first, then what it captured."""
    found: dict[str, int] = {}
    for node in graph.node:
        name = node.attr["f"].func.name if "f" in node.attr else ""
        if name in objects.concrete_functions:
            bound = list(objects.concrete_functions[name].bound_inputs)
            found |= dict(zip(list(node.input)[len(node.input) - len(bound) :], bound, strict=False))
    return found


def _values(tf: Any, path: Path, graph: Any, objects: Any) -> dict[str, NDArray[Any]]:
    """The value of each variable by its node, from the checkpoint. Raises: InvalidInput: one is missing, or of another shape."""
    handles = [node for node in graph.node if node.op == _VARIABLE]
    if not handles:
        return {}
    prefix = path / _CHECKPOINT
    for one in prefix.parent.glob("*"):
        if one.is_symlink() or not one.is_file():
            raise InvalidInput(
                f"expected files in {path.name}/variables, got {one.name}, which is none; copy the directory again"
            )
    reader = tf.train.load_checkpoint(os.fspath(prefix))
    captured, keys, shapes = _captured(graph, objects), _keys(reader), reader.get_variable_to_shape_map()
    found = {}
    for handle in handles:
        key = keys.get(captured.get(handle.name, -1), handle.attr["shared_name"].s.decode())
        if list(shapes.get(key, [-1])) != [dim.size for dim in handle.attr["shape"].shape.dim]:
            raise InvalidInput(
                f"expected a value for the variable {handle.name!r} in {path.name}/variables, got none of its shape; export it again"
            )
        found[handle.name] = reader.get_tensor(key)
    return found


def _keys(reader: Any) -> dict[int, str]:
    """Where the checkpoint keeps each variable, by the number of the object; it has no objects in TensorFlow 1."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    if not reader.has_tensor(_OBJECTS):
        return {}
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS))
    return {number: node.attributes[0].checkpoint_key for number, node in enumerate(graph.nodes) if node.attributes}


def _unreadable(path: Path, failure: BaseException) -> InvalidInput:
    return InvalidInput(
        f"expected a SavedModel, but {path.name} cannot be read as one: {reason_of(failure)}; export it again, with its variables"
    )
