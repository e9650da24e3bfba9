"""Graphs around models from elsewhere: preparations and heads give what NumPy gives, and what is no classifier is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.engines.onnx import OnnxClassifier
from models.engines.onnx_graph import BYTES_PER_ROW, composed
from models.errors import InvalidInput
from models.preparation import PRESETS, Preparation
from tests.fakes import noise, softmax

SHAPE = (6, 7, 3)


def linear(
    shape: tuple[int | str, ...], columns: int, *, kind: int = TensorProto.FLOAT, rows: int | str = "n", version: int = 18
) -> tuple[Any, Any]:
    """A dense layer over one image of this shape as another framework would export it, and its weights."""
    open_dims = [size for size in SHAPE if size not in shape]
    size = int(np.prod([size if isinstance(size, int) else open_dims.pop() for size in shape]))
    weights = (np.random.default_rng(3).normal(size=(size, columns)) / size).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    return model_of(
        nodes,
        [helper.make_tensor_value_info("pixels", kind, [rows, *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [rows, columns])],
        weights={"weights": weights},
        version=version,
    ), weights


def model_of(nodes: Any, inputs: Any, outputs: Any, *, weights: Any = None, version: int = 18, domains: Any = ()) -> Any:
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "elsewhere", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", version), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def predicted(model: Any, images: Any, classes: int, **options: Any) -> Any:
    chosen: dict[str, Any] = {"preparation": Preparation(), "outputs": "logits"} | options
    graph = composed(model, input_shape=images.shape[1:], **chosen)
    labels = [str(label) for label in range(classes)]
    return OnnxClassifier(graph.SerializeToString(), labels=labels, input_shape=images.shape[1:], threads=1).predict(images)


PREPARATIONS = {
    "as it is": (Preparation(), TensorProto.FLOAT),
    "bytes": (Preparation.of_range(0, 255, dtype="uint8"), TensorProto.UINT8),
    "bytes, channels first, BGR": (
        Preparation.of_range(0, 255, dtype="uint8", layout="nchw", channels="bgr"),
        TensorProto.UINT8,
    ),
    "half precision": (Preparation.of_range(-1, 1), TensorProto.FLOAT16),
    "double precision": (Preparation.of_range(-1, 1), TensorProto.DOUBLE),
    "one deviation, three means, channels first": (
        Preparation.of_statistics((0.4, 0.5, 0.6), 0.2, layout="nchw"),
        TensorProto.FLOAT,
    ),
    **{name: (preset, TensorProto.FLOAT) for name, preset in PRESETS.items()},
}


@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_preparation_in_the_graph_is_the_one_in_numpy(name: str) -> None:
    preparation, kind = PREPARATIONS[name]
    model, weights = linear(preparation.shape(SHAPE), 4, kind=kind)
    images = noise(5, SHAPE, 1)
    given = preparation.apply(images).astype(helper.tensor_dtype_to_np_dtype(kind)).astype(np.float32)
    expected = softmax(given.reshape(5, -1).astype(np.float64) @ weights)
    np.testing.assert_allclose(predicted(model, images, 4, preparation=preparation), expected, atol=2e-6)


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_single_column_is_a_sigmoid(outputs: Any) -> None:
    model, weights = linear(SHAPE, 1)
    images = noise(5, SHAPE, 1)
    column = images.reshape(5, -1) @ weights
    if outputs == "logits":
        column = 1 / (1 + np.exp(-column.astype(np.float64)))
    np.testing.assert_allclose(predicted(model, images, 2, outputs=outputs), np.hstack([1 - column, column]), atol=1e-6)


def test_a_logit_far_out_keeps_its_small_probability() -> None:
    model, _ = linear((1, 1, 1), 1)
    scaled = Preparation.of_range(0, 20 / float(numpy_helper.to_array(model.graph.initializer[0]).item()))
    found = predicted(model, np.ones((1, 1, 1, 1), np.float32), 2, preparation=scaled)
    np.testing.assert_allclose(found[0, 0], np.exp(-20), rtol=1e-4)


@pytest.mark.parametrize("shape", [(42,), (6, 7), (6, 7, 1), ("height", "width", 1)])
def test_grey_images_may_be_flat_without_channels_or_of_open_size(shape: tuple[int | str, ...]) -> None:
    images, own = (
        noise(4, (6, 7, 1), 1),
        tuple(size if isinstance(size, int) else {"height": 6, "width": 7}[size] for size in shape),
    )
    model, weights = linear(own, 3)
    for place, size in enumerate(shape, 1):
        if isinstance(size, str):
            model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = size
    np.testing.assert_allclose(
        predicted(model, images, 3), softmax(images.reshape(4, -1).astype(np.float64) @ weights), atol=1e-6
    )


def test_a_model_that_says_it_takes_one_image_takes_any_number() -> None:
    model, weights = linear(SHAPE, 3, rows=1)
    images = noise(300, SHAPE, 1)
    np.testing.assert_allclose(
        predicted(model, images, 3), softmax(images.reshape(300, -1).astype(np.float64) @ weights), atol=1e-6
    )


def test_one_of_several_outputs_is_taken_by_name() -> None:
    model, weights = linear(SHAPE, 3)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 126]))
    images = noise(2, SHAPE, 1)
    expected = softmax(images.reshape(2, -1).astype(np.float64) @ weights)
    np.testing.assert_allclose(predicted(model, images, 3, output_name="scores"), expected, atol=1e-6)
    with pytest.raises(InvalidInput, match=r"2 outputs, scores, flat; say which .*--output NAME"):
        predicted(model, images, 3)
    with pytest.raises(InvalidInput, match="one of the outputs of the model, scores, flat, got 'score'"):
        predicted(model, images, 3, output_name="score")


def test_a_graph_can_be_composed_again() -> None:
    model, weights = linear(SHAPE, 3)
    once = composed(model, preparation=Preparation(), outputs="logits", input_shape=SHAPE)
    images = noise(2, SHAPE, 1)
    expected = softmax((images * 2 - 1).reshape(2, -1).astype(np.float64) @ weights)
    found = predicted(once, images, 3, preparation=Preparation.of_range(-1, 1), outputs="probabilities")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_model_that_is_given_stays_as_it_is() -> None:
    model, _ = linear(SHAPE, 3)
    before = model.SerializeToString()
    composed(model, preparation=PRESETS["caffe"], outputs="logits", input_shape=SHAPE)
    assert model.SerializeToString() == before


def test_the_graph_says_what_its_largest_step_takes_for_an_image() -> None:
    model, _ = linear(SHAPE, 3)
    graph = composed(model, preparation=Preparation(), outputs="logits", input_shape=SHAPE)
    found = {entry.key: entry.value for entry in graph.metadata_props}
    assert int(found[BYTES_PER_ROW]) == 2 * 4 * int(np.prod(SHAPE))


def _custom() -> Any:
    model, _ = linear(SHAPE, 3)
    model.graph.node[1].domain, model.graph.node[1].op_type = "acme.ops", "Sharpen"
    model.opset_import.append(helper.make_opsetid("acme.ops", 1))
    return model


def _text() -> Any:
    model, _ = linear(SHAPE, 3)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


def _dictionaries() -> Any:
    model, _ = linear(SHAPE, 3)
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("scores", helper.make_sequence_type_proto(kind)))
    return model


def _two_inputs() -> Any:
    model, _ = linear(SHAPE, 3)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 6]))
    return model


def _fixed_rows() -> Any:
    model, _ = linear(SHAPE, 3)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 126], np.int64), "one_image"))
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["numbers", "one_image"], ["flat"]))
    return model


def _a_map() -> Any:
    model, _ = linear(SHAPE, 3)
    del model.graph.node[2:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", *SHAPE]))
    return model


def _contradiction() -> Any:
    model, _ = linear(SHAPE, 3)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((5, 3), np.float32), "weights"))
    return model


REFUSED = {
    "operations of its own": (_custom, r"needs acme\.ops\.Sharpen, which is code that is never loaded"),
    "text": (_text, "'scores' is a tensor of string"),
    "dictionaries": (_dictionaries, "'scores' is a sequence"),
    "two inputs": (_two_inputs, r"one input, the images, but the model has 2 \(pixels, mask\)"),
    "one image at a time": (_fixed_rows, "takes 1; export it with a dynamic batch dimension"),
    "no classes": (_a_map, r"output is \[n, classes\], but that of the model is \[n, 6, 7, 3\]"),
    "an old operator set": (
        lambda: linear(SHAPE, 3, version=6)[0],
        "operator set 7 to 26, but the model has 6; export it with opset 18",
    ),
    "a coming operator set": (lambda: linear(SHAPE, 3, version=99)[0], "but the model has 99"),
    "another size": (lambda: linear((5, 5, 3), 3)[0], r"one image \(6, 7, 3\), but that of the model is \(5, 5, 3\)"),
    "shapes that contradict each other": (_contradiction, "contradict each other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_is_refused_in_a_sentence(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        composed(make(), preparation=Preparation(), outputs="logits", input_shape=SHAPE)
    assert "\n" not in str(refusal.value)


def test_functions_of_the_model_itself_are_no_operations_of_its_own() -> None:
    model, weights = linear(SHAPE, 3)
    inner = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("pkg.exported", "Same", ["x"], ["y"], [inner], [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("pkg.exported", 1))
    model.graph.node.insert(0, helper.make_node("Same", ["pixels"], ["same"], domain="pkg.exported"))
    model.graph.node[1].input[0] = "same"
    images = noise(2, SHAPE, 1)
    np.testing.assert_allclose(
        predicted(model, images, 3), softmax(images.reshape(2, -1).astype(np.float64) @ weights), atol=1e-6
    )


def test_the_bounds_of_the_operator_sets_are_those_of_the_installed_onnx() -> None:
    from models.engines.onnx_checks import OPSETS

    assert onnx.defs.onnx_opset_version() >= OPSETS[1] - 1
