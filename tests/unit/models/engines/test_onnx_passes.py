"""Rewritten graphs give what the graphs before them gave, and no longer hold what was to be rewritten."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from models.engines.onnx_passes import rewrite
from tests.fakes import noise


def model(nodes: list[Any], weights: dict[str, Any], given: list[int], output: list[Any]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *given])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *output])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def computed(model: ModelProto, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


def rewritten(before: ModelProto, x: Any, atol: float = 1e-6) -> Counter[str]:
    """Rewrite, compare, and count the operations that are left."""
    expected = computed(before, x)
    after = ModelProto()
    after.CopyFrom(before)
    rewrite(after)
    np.testing.assert_allclose(computed(after, x), expected, atol=atol)
    return Counter(node.op_type for node in after.graph.node)


def ramps(w: list[float], b: list[float] | None, v: list[float], c: float | None, **attributes: Any) -> ModelProto:
    weights = {"w": np.array(w, np.float32).reshape(-1, 1, 1, 1), "v": np.array(v, np.float32).reshape(1, -1, 1, 1)}
    weights |= {} if b is None else {"b": np.array(b, np.float32)}
    weights |= {} if c is None else {"c": np.array([c], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if b is not None else [])], ["lines"], **attributes),
        helper.make_node("Relu", ["lines"], ["ramps"]),
        helper.make_node("Conv", ["ramps", "v", *(["c"] if c is not None else [])], ["y"]),
    ]
    return model(nodes, weights, [1, 5, 6], [1, None, None])


@pytest.mark.parametrize(
    ("w", "b", "v", "c"),
    [
        ([5.769, 5.769, 1.0], [-2.38, -3.38, 0.0], [1.0, -1.0, 0.02], None),
        ([2.0, -1.0], [0.1, 0.4], [-3.0, 2.0], 0.7),
        ([2.0, -1.0], None, [-3.0, -2.0], 0.7),
        ([-2.0], [1.0], [-1.0], None),
        ([1.0], None, [1.0], None),
        ([1.0, 2.0], [0.5, 0.5], [0.0, 1.0], 0.0),
        ([1.0, 2.0], [0.5, 0.5], [0.0, 0.0], 0.3),
    ],
)
def test_ramps_become_a_sum(w: list[float], b: Any, v: list[float], c: float | None) -> None:
    kinds = rewritten(ramps(w, b, v, c), noise(3, (1, 5, 6), 0))
    assert "Conv" not in kinds
    assert kinds["Relu"] == len(w)


def test_many_ramps_stay_a_convolution() -> None:
    many = list(np.linspace(-1, 1, 9))
    assert rewritten(ramps(many, many, many, None), noise(3, (1, 5, 6), 0))["Conv"] == 2


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}])
def test_convolutions_that_skip_or_pad_stay(attributes: Any) -> None:
    assert rewritten(ramps([1.0], [1.0], [1.0], None, **attributes), noise(3, (1, 5, 6), 0))["Conv"] == 2


def test_ramps_that_something_else_reads_stay() -> None:
    both = ramps([1.0, 2.0], [0.1, 0.1], [1.0, 1.0], None)
    both.graph.output.append(helper.make_tensor_value_info("ramps", TensorProto.FLOAT, ["n", 2, 5, 6]))
    assert rewritten(both, noise(3, (1, 5, 6), 0))["Conv"] == 2


def flattened(perm: list[int], *, read_twice: bool = False) -> ModelProto:
    rng = np.random.default_rng(0)
    size = 4 * 5 * 6
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], perm=perm),
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Slice", ["all", "zero", "one", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "size"], ["shape"], axis=0),
        helper.make_node("Reshape", ["last", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
    ]
    if read_twice:
        nodes += [
            helper.make_node("ReduceSum", ["flat", "one"], ["sum"], keepdims=1),
            helper.make_node("Add", ["product", "sum"], ["y"]),
        ]
    else:
        nodes[-1].output[0] = "y"
    ints = {name: np.array([value], np.int64) for name, value in {"zero": 0, "one": 1, "size": size}.items()}
    return model(nodes, {"w": rng.normal(size=(size, 3)).astype(np.float32), **ints}, [4, 5, 6], [3])


def test_a_flattening_is_one_reshape_and_its_transposition_moves_into_the_weights() -> None:
    kinds = rewritten(flattened([0, 2, 3, 1]), noise(3, (4, 5, 6), 0), atol=1e-5)
    assert kinds == {"Reshape": 1, "MatMul": 1}


def test_another_transposition_stays() -> None:
    kinds = rewritten(flattened([0, 3, 1, 2]), noise(3, (4, 5, 6), 0), atol=1e-5)
    assert kinds == {"Transpose": 1, "Reshape": 1, "MatMul": 1}


def test_a_flattening_that_something_else_reads_stays_in_its_order() -> None:
    kinds = rewritten(flattened([0, 2, 3, 1], read_twice=True), noise(3, (4, 5, 6), 0), atol=1e-5)
    assert kinds["Transpose"] == 1


def test_what_a_branch_reads_is_not_dropped() -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "shift"], ["then"])], "b", [], [helper.make_tensor_value_info("then", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["else"])], "b", [], [helper.make_tensor_value_info("else", 1, None)]
    )
    nodes = [
        helper.make_node("Identity", ["unused"], ["nothing"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other),
    ]
    weights = {"shift": np.float32(3), "yes": np.array(True), "unused": np.float32(1)}
    kinds = rewritten(model(nodes, weights, [2], [2]), np.ones((3, 2), np.float32))
    assert kinds == {"If": 1}
