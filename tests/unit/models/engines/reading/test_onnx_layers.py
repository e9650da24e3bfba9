"""Which tensors of a graph are layers, in what order their numbers are, and where the head begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from models.engines.reading.onnx_layers import OnnxLayers, Tensor, layers_of
from models.errors import InvalidInput
from tests.converted import graph

RNG = np.random.default_rng(0)


def weight(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def of_a_framework_with_channels_first() -> ModelProto:
    """Scaled, transposed, convolved with a bias and an activation function, pooled, flattened, two dense layers, a softmax."""
    nodes = [
        helper.make_node("Mul", ["images", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "kernel"], ["convolved"]),
        helper.make_node("Add", ["convolved", "shift"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["rectified"]),
        helper.make_node("MaxPool", ["rectified"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["classes"]),
    ]
    weights = {
        "scale": weight(),
        "kernel": weight(4, 3, 3, 3),
        "shift": weight(1, 4, 1, 1),
        "dense": weight(36, 5),
        "head": weight(5, 3),
    }
    return graph(nodes, weights, images=[8, 8, 3], output="classes", classes=3)


def test_parts_of_a_layer_and_changes_of_layout_are_no_layers() -> None:
    found = layers_of(of_a_framework_with_channels_first())
    assert found.names == ("rectified", "pooled", "bent", "logits", "classes")
    assert (found.hidden, found.earlier) == ("bent", "pooled")


def test_every_tensor_with_a_row_an_image_can_be_read_and_has_its_order() -> None:
    tensors = layers_of(of_a_framework_with_channels_first()).tensors
    assert {"scaled", "convolved", "flat", "hidden"} < set(tensors)
    assert tensors["scaled"] == Tensor((8, 8, 3), "plain")
    assert tensors["turned"] == Tensor((3, 8, 8), "map")
    assert tensors["pooled"] == Tensor((4, 3, 3), "map")
    assert tensors["flat"] == Tensor((4, 3, 3), "flattened")
    assert tensors["hidden"] == Tensor((5,), "plain")


def test_numbers_come_with_the_channels_last() -> None:
    maps = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    wanted = maps.transpose(0, 2, 3, 1).reshape(1, 24)
    np.testing.assert_array_equal(Tensor((2, 3, 4), "map").activations(maps), wanted)
    np.testing.assert_array_equal(Tensor((2, 3, 4), "flattened").activations(maps.reshape(1, 24)), wanted)
    np.testing.assert_array_equal(Tensor((2, 3, 4), "plain").activations(maps), maps.reshape(1, 24))


def test_where_channels_are_is_followed_through_what_keeps_the_layout() -> None:
    nodes = [
        helper.make_node("Reshape", ["images", "one_channel"], ["turned"]),
        helper.make_node("Abs", ["turned"], ["positive"]),
        helper.make_node("Conv", ["positive", "kernel"], ["convolved"]),
        helper.make_node("Exp", ["convolved"], ["grown"]),
        helper.make_node("Transpose", ["grown"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Neg", ["last"], ["negated"]),
        helper.make_node("ReduceMean", ["negated", "pixels"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["classes"]),
    ]
    weights = {
        "one_channel": np.array([-1, 1, 6, 6], np.int64),
        "kernel": weight(4, 1, 3, 3),
        "pixels": np.array([1, 2], np.int64),
        "head": weight(4, 2),
    }
    found = layers_of(graph(nodes, weights, images=[6, 6, 1], output="classes", classes=2))
    orders = {name: found.tensors[name].order for name in ("turned", "positive", "convolved", "grown", "last", "negated")}
    assert orders == dict.fromkeys(("turned", "positive", "convolved", "grown"), "map") | dict.fromkeys(
        ("last", "negated"), "plain"
    )
    assert (found.hidden, found.earlier) == ("mean", "negated")


def test_what_a_global_pooling_leaves_is_no_map_with_detail() -> None:
    nodes = [
        helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "kernel"], ["convolved"]),
        helper.make_node("GlobalAveragePool", ["convolved"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "head"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["classes"]),
    ]
    weights = {"kernel": weight(4, 3, 3, 3), "head": weight(2, 4, 1, 1)}
    found = layers_of(graph(nodes, weights, images=[6, 6, 3], output="classes", classes=2))
    assert (found.hidden, found.earlier) == ("pooled", "convolved")


def test_products_of_two_values_of_the_image_are_no_head() -> None:
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "mixing"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "mixed"], ["attended"]),
        helper.make_node("ReduceMax", ["attended", "axes"], ["classes"], keepdims=0),
    ]
    weights = {"shape": np.array([-1, 16, 3], np.int64), "mixing": weight(3, 3), "axes": np.array([1], np.int64)}
    assert layers_of(graph(nodes, weights, images=[4, 4, 3], output="classes", classes=3)).hidden == "tokens"


def test_a_graph_without_weights_has_no_hidden_layer() -> None:
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["classes"], keepdims=0)]
    found = layers_of(graph(nodes, {"axes": np.array([1, 2], np.int64)}, images=[4, 4, 3], output="classes", classes=3))
    assert (found.hidden, found.earlier) == (None, None)


def test_what_is_found_survives_the_metadata() -> None:
    found = layers_of(of_a_framework_with_channels_first())
    assert OnnxLayers.from_text(found.as_text()) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tensors": {"a": ["map", 3]}, "names": [], "hidden": null, "earlier": null}',
        '{"tensors": {"a": ["odd", 3]}, "names": [], "hidden": null, "earlier": null}',
        '{"tensors": {"a": []}, "names": [], "hidden": null, "earlier": null}',
        '{"tensors": {}, "names": ["a"], "hidden": null, "earlier": null}',
        '{"tensors": {}, "names": [], "hidden": "a", "earlier": null}',
        "[" * 100_000,
    ],
)
def test_metadata_that_say_no_layers_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected .*layers of the model under 'hauberk.layers'"):
        OnnxLayers.from_text(text)


def test_a_graph_that_does_not_run_is_refused() -> None:
    nodes = [helper.make_node("MatMul", ["images", "head"], ["classes"])]
    with pytest.raises(InvalidInput, match="does not run"):
        layers_of(graph(nodes, {"head": weight(7, 2)}, images=[4, 4, 3], output="classes", classes=2))
