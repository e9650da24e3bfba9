"""ONNX files: weights beside them are taken in, and nothing outside their directory is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.engines.onnx_file import read_model, tensors
from models.errors import InvalidInput

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def model() -> Any:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def with_weights_at(location: str, **entries: int) -> Any:
    """The model with its weights said to be in another file."""
    found = model()
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return found


def write(directory: Path, model: Any) -> Path:
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory / "model.onnx"


def test_a_model_is_read_whole(tmp_path: Path) -> None:
    assert read_model(write(tmp_path, model())) == model()


@pytest.mark.parametrize(("before", "entries"), [(b"", {}), (b"other weights   ", {"offset": 16, "length": 48})])
def test_weights_beside_the_model_are_taken_in(tmp_path: Path, before: bytes, entries: dict[str, int]) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(before + WEIGHTS.tobytes())
    found = read_model(write(tmp_path, with_weights_at("weights/w.bin", **entries)))
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), WEIGHTS)
    assert not found.graph.initializer[0].external_data


def test_weights_as_onnx_itself_saves_them_are_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    np.testing.assert_array_equal(numpy_helper.to_array(read_model(path).graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights/../../secret", "..\\secret", "", "link"])
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    (inside / "weights").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    os.symlink(tmp_path / "secret", inside / "link")
    with pytest.raises(InvalidInput, match="keep its weights in its own directory"):
        read_model(write(inside, with_weights_at(location)))


@pytest.mark.parametrize(
    "entries", [{"offset": 40}, {"offset": -8, "length": 8}, {"length": 49}, {"offset": 10**30, "length": 1}]
)
def test_weights_beyond_their_file_are_refused(tmp_path: Path, entries: dict[str, int]) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = write(tmp_path, with_weights_at("w.bin", **{"length": 48, **entries}))
    with pytest.raises(InvalidInput, match=r"the weights 'w' of model\.onnx lie outside their file"):
        read_model(path)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"in 'w\.bin', which cannot be read: no such file"):
        read_model(write(tmp_path, with_weights_at("w.bin")))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 100])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"expected an ONNX model, but model\.onnx"):
        read_model(tmp_path / "model.onnx")


def test_two_gigabytes_are_refused_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # holes, not bytes
    with pytest.raises(InvalidInput, match="less than 2 GiB"):
        read_model(path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(InvalidInput, match="a named pipe"):
        read_model(tmp_path / "model.onnx")


def test_weights_in_branches_are_found(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
        [with_weights_at("../w.bin").graph.initializer[0]],
    )
    outer = model()
    outer.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    assert [tensor.name for tensor in tensors(outer.graph)] == ["w", "w", "w"]
    with pytest.raises(InvalidInput, match="keep its weights in its own directory"):
        read_model(write(tmp_path, outer))
