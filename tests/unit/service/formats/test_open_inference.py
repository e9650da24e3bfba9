"""What an inference request of the Open Inference Protocol v2 has to be, and what its answer is."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defences.defended_classifier import Decisions, Trace
from service.errors import MalformedInference, MalformedJson, Problem, Unprocessable
from service.formats import open_inference
from service.formats.arrays import Tensors
from service.formats.open_inference import Inference, answer

GREY = Tensors((2, 3, 1), 4)
VALUES = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "images", "datatype": "FP32", "shape": [2, 2, 3], "data": VALUES.ravel().tolist()} | changes
    return {name: value for name, value in made.items() if value is not ...}


def document(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor()]} | changes).encode()


def binary(data: bytes, *, size: Any = None, length: int | None = None, **changes: Any) -> tuple[bytes, bytes]:
    size = len(data) if size is None else size
    text = document(inputs=[tensor(data=..., parameters={"binary_data_size": size}) | changes])
    return text + data, str(len(text) if length is None else length).encode()


def read(body: bytes, length: bytes | None = None) -> Inference:
    return open_inference.read(body, length, GREY)


def said(body: bytes, length: bytes | None = None) -> str:
    """The sentence of a refusal."""
    with pytest.raises(Problem) as refusal:
        read(body, length)
    return refusal.value.detail


def refused(body: bytes, length: bytes | None = None) -> tuple[int, str]:
    with pytest.raises(Problem) as refusal:
        read(body, length)
    return refusal.value.status, refusal.value.code


def test_a_tensor_is_flat_nested_or_binary_and_means_the_same() -> None:
    flat, nested = read(document()), read(document(inputs=[tensor(data=VALUES.tolist())]))
    deep = read(document(inputs=[tensor(shape=[2, 2, 3, 1], data=VALUES[..., None].tolist())]))
    behind = read(*binary(VALUES.tobytes()))
    for inference in (flat, nested, deep, behind):
        assert np.array_equal(inference.images, VALUES[..., None])
        assert inference.images.flags.carray
        assert (inference.id, inference.outputs) == (None, tuple((name, False) for name in open_inference.OUTPUTS))


def test_bytes_are_a_255th_each() -> None:
    values = np.arange(12, dtype=np.uint8)
    expected = (values / 255).astype(np.float32).reshape(2, 2, 3, 1)
    assert np.array_equal(read(document(inputs=[tensor(datatype="UINT8", data=values.tolist())])).images, expected)
    assert np.array_equal(read(*binary(values.tobytes(), datatype="UINT8")).images, expected)


WHOLE = [name for name in open_inference.DATATYPES if "INT" in name]


@pytest.mark.parametrize("datatype", ["FP16", "FP64"])
def test_floats_of_other_sizes_become_float32(datatype: str) -> None:
    values = VALUES.astype(open_inference.DATATYPES[datatype])
    assert np.array_equal(read(*binary(values.tobytes(), datatype=datatype)).images, values.astype(np.float32)[..., None])
    assert np.array_equal(read(document(inputs=[tensor(datatype=datatype)])).images, VALUES[..., None])
    for bad in (np.nan, np.inf, 1.5, -0.5, 1e300 if datatype == "FP64" else 255):
        assert refused(*binary(np.full(12, bad, values.dtype).tobytes(), datatype=datatype)) == (422, "out_of_range")


@pytest.mark.parametrize("datatype", WHOLE)
def test_whole_numbers_of_every_size_are_255ths_and_are_refused_beyond(datatype: str) -> None:
    dtype = open_inference.DATATYPES[datatype]
    values = np.linspace(0, 127, 12).astype(dtype)
    expected = (values / 255).astype(np.float32).reshape(2, 2, 3, 1)
    assert np.array_equal(read(document(inputs=[tensor(datatype=datatype, data=values.tolist())])).images, expected)
    assert np.array_equal(read(*binary(values.tobytes(), datatype=datatype)).images, expected)
    for bad in (-1, 256, np.iinfo(dtype).min, np.iinfo(dtype).max):
        if np.iinfo(dtype).min <= bad <= np.iinfo(dtype).max and not 0 <= bad <= 255:
            assert refused(*binary(np.full(12, bad, dtype).tobytes(), datatype=datatype)) == (422, "out_of_range")
    assert refused(document(inputs=[tensor(datatype=datatype)])) == (422, "wrong_datatype")  # 0.0 is not written as one
    code = "wrong_datatype" if datatype == "UINT8" else "out_of_range"
    for number in ("-1", "256", "1000", "9" * 40):
        whole = document(inputs=[tensor(datatype=datatype, data=[7] * 12)])
        assert refused(whole.replace(b"7,", number.encode() + b",", 1)) == (422, code)


def test_a_refusal_says_what_was_expected_and_what_came_and_nothing_that_a_client_wrote() -> None:
    assert said(document(inputs=[tensor(datatype="BOOL")])).endswith("INT64, got BOOL.")
    assert said(document(inputs=[tensor(datatype="<script>")])).endswith("INT64, got another.")
    assert said(document(inputs=[tensor(shape=[2, 3, 2])])) == "Expected the shape [n, 2, 3, 1] or [n, 2, 3], got [2, 3, 2]."
    assert said(document(inputs=[tensor(shape=[1] * 9)])) == "Expected the shape [n, 2, 3, 1] or [n, 2, 3], got 9 dimensions."
    assert said(document(inputs=[tensor(data=[0] * 11)])) == "Expected 12 entries in data, as the shape says, got 11."
    assert said(document(inputs=[tensor(data=[0] * 99)])) == "Expected 12 entries in data, as the shape says, got more."
    ragged = [[[0, 0, 0], [0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert (
        said(document(inputs=[tensor(data=ragged)])) == "Expected arrays of 3 entries in data, as the shape says, got one of 2."
    )
    assert "as UINT8" in said(document(inputs=[tensor(datatype="UINT8")]))


@pytest.mark.parametrize("unit", ["{}", "[]", '"x"', '{"":0}', "null", "0", "[0]", '{"name":"label"}'])
@pytest.mark.parametrize("place", ["data", "shape", "outputs", "parameters", "more"])
def test_a_hostile_request_becomes_few_objects_wherever_it_is_hostile(unit: str, place: str) -> None:
    text = "[" + ",".join([unit] * ((1 << 18) // (len(unit) + 1))) + "]"
    flood = {"data": tensor(data="FLOOD"), "shape": tensor(shape="FLOOD"), "parameters": tensor(parameters={"x": "FLOOD"})}
    changes = {"inputs": [flood[place]]} if place in flood else {place: "FLOOD"}
    body = document(**changes).replace(b'"FLOOD"', text.encode())
    refused(document()[:-1])  # what the first request loads is no work of this one
    tracemalloc.start()
    try:
        assert refused(body)[0] in (400, 422)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(body) + (1 << 18)
    finally:
        tracemalloc.stop()


def test_a_request_may_hold_what_no_reader_needs_but_not_much_of_it() -> None:
    assert read(document(more=list(range(900)), other={str(i): i for i in range(50)})).id is None
    assert refused(document(more=list(range(1100)))) == (400, "malformed_inference")
    assert refused(document(more={str(i): i for i in range(1100)})) == (400, "malformed_inference")


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({"outputs": []}, {"probabilities": False, "label": False, "abstained": False}),
        ({"outputs": None}, {"probabilities": False, "label": False, "abstained": False}),
        ({"parameters": {"binary_data_output": True}}, {"probabilities": True, "label": True, "abstained": True}),
        ({"outputs": [{"name": "label"}]}, {"label": False}),
        (
            {"outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "abstained"}]},
            {"label": 1, "abstained": 0},
        ),
        (
            {"outputs": [{"name": "label", "parameters": {"binary_data": False}}], "parameters": {"binary_data_output": True}},
            {"label": False},
        ),
    ],
)
def test_outputs_are_those_asked_for_as_they_are_asked_for(changes: dict[str, Any], outputs: dict[str, Any]) -> None:
    assert dict(read(document(**changes)).outputs) == outputs


def test_what_the_protocol_allows_and_we_do_not_use_is_passed_over() -> None:
    assert read(document(id="a", parameters={"priority": 1, "timeout": 5, "own": "x"}, more=1)).id == "a"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": None},
        {"inputs": {}},
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": [tensor(), tensor()]},
        {"inputs": [tensor(name="image")]},
        {"inputs": [tensor(name=...)]},
        {"inputs": [tensor(shape=...)]},
        {"inputs": [tensor(shape="2,2,3")]},
        {"inputs": [tensor(shape=[2, 2.0, 3])]},
        {"inputs": [tensor(shape=[True, 2, 3])]},
        {"inputs": [tensor(data=...)]},
        {"inputs": [tensor(parameters=[])]},
        {"inputs": [tensor(parameters={"binary_data_size": 48})]},
        {"inputs": [tensor(data=..., parameters={"binary_data_size": 48})]},
        {"inputs": [tensor(data=..., parameters={"shared_memory_region": "x"})]},
        {"id": 5},
        {"id": "x" * 257},
        {"parameters": 5},
        {"parameters": {"binary_data_output": 1}},
        {"outputs": {}},
        {"outputs": ["label"]},
        {"outputs": [{"name": "scores"}]},
        {"outputs": [{"name": ["label"]}]},
        {"outputs": [{"name": "label"}, {"name": "label"}]},
        {"outputs": [{"name": "label", "parameters": {"classification": 3}}]},
        {"outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}]},
    ],
)
def test_another_document_is_malformed(changes: dict[str, Any]) -> None:
    assert refused(document(**changes)) == (400, "malformed_inference")


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b'"x"', b"{}"])
def test_what_is_no_object_with_inputs_is_malformed(text: bytes) -> None:
    assert refused(text) == (400, "malformed_inference")


@pytest.mark.parametrize("text", [b"", b"{", b'{"inputs": [NaN]}', b'{"id": "a", "id": "b"}', b"[" * 100_000, b'{"id": "\xff"}'])
def test_what_is_no_json_is_malformed(text: bytes) -> None:
    assert refused(text) == (400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "length"),
    [
        binary(bytes(47)),
        binary(bytes(49)),
        binary(bytes(48), size=47),
        binary(bytes(48), size=49),
        binary(bytes(48), size=-48),
        binary(bytes(48), size=48.0),
        binary(bytes(48), size="48"),
        binary(bytes(48), size=True),
        binary(bytes(48), length=10_000),
        binary(bytes(48), datatype="UINT8"),
        (binary(bytes(48))[0], b"-1"),
        (binary(bytes(48))[0], b"9" * 5000),
        (binary(bytes(48))[0], b"+10"),
        (binary(bytes(48))[0], b""),
        (document() + b" ", str(len(document())).encode()),
    ],
)
def test_sizes_that_do_not_add_up_are_malformed(body: bytes, length: bytes) -> None:
    assert refused(body, length) == (400, "malformed_inference")


def test_a_binary_tensor_without_its_header_is_malformed() -> None:
    assert refused(binary(b"\xff" * 48)[0]) == (400, "malformed_json")
    assert refused(binary(bytes(48))[0], b"5") == (400, "malformed_json")


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL", "BF16", "fp32", "<script>", None, 1, ["FP32"]])
def test_other_datatypes_are_refused(datatype: Any) -> None:
    assert refused(document(inputs=[tensor(datatype=datatype)])) == (422, "wrong_datatype")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"shape": []}, "wrong_shape"),
        ({"shape": [2, 3, 2]}, "wrong_shape"),
        ({"shape": [10**18, 10**18, 10**18]}, "wrong_shape"),
        ({"shape": [0, 2, 3]}, "no_images"),
        ({"shape": [-1, 2, 3]}, "no_images"),
        ({"shape": [5, 2, 3]}, "too_many_images"),
        ({"shape": [10**18, 2, 3]}, "too_many_images"),
        ({"data": [0.0] * 11}, "wrong_shape"),
        ({"data": [0.0] * 13}, "wrong_shape"),
        ({"data": []}, "wrong_shape"),
        ({"data": [[0.0] * 6, [0.0] * 6]}, "wrong_shape"),
        ({"data": [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], 0]]}, "wrong_shape"),
        ({"data": [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, []]]]}, "wrong_type"),
        ({"data": {}}, "wrong_type"),
        ({"data": "0" * 12}, "wrong_type"),
        ({"data": [0.0] * 11 + ["0"]}, "wrong_type"),
        ({"data": [0.0] * 11 + [True]}, "wrong_type"),
        ({"data": [0.0] * 11 + [None]}, "wrong_type"),
        ({"data": [0.0] * 11 + [1.5]}, "out_of_range"),
        ({"data": [0.0] * 11 + [-1]}, "out_of_range"),
        ({"data": [0.0] * 11 + [10**40]}, "out_of_range"),
        ({"data": [0.0] * 11 + [1e39]}, "out_of_range"),
        ({"datatype": "UINT8", "data": [0.0] * 12}, "wrong_datatype"),
        ({"datatype": "UINT8", "data": [256] * 12}, "wrong_datatype"),
        ({"datatype": "UINT8", "data": [-1] * 12}, "wrong_datatype"),
        ({"datatype": "UINT8", "data": [True] * 12}, "wrong_type"),
    ],
)
def test_other_images_are_refused(changes: dict[str, Any], code: str) -> None:
    assert refused(document(inputs=[tensor(**changes)])) == (422, code)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 255])
def test_binary_numbers_out_of_range_are_refused(bad: float) -> None:
    assert refused(*binary(np.full(12, bad, np.float32).tobytes())) == (422, "out_of_range")


DECISIONS = Decisions(
    np.array([[0.25, 0.75], [0.5, 0.5]], np.float32), np.array([False, True]), np.array([1, 0]), Trace()
)  # as if a mistake had left something in the second row


def test_an_abstained_row_is_zeros_and_minus_one_whatever_it_held() -> None:
    media_type, body, headers = answer(read(document(id="7")), DECISIONS, "m", "v")
    assert (media_type, headers) == (b"application/json", ())
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "v",
        "id": "7",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.0, 0.0]},
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, -1]},
            {"name": "abstained", "datatype": "BOOL", "shape": [2], "data": [False, True]},
        ],
    }


def test_binary_outputs_lie_behind_the_json_in_its_order() -> None:
    outputs = [{"name": name, "parameters": {"binary_data": name != "label"}} for name in ("abstained", "label", "probabilities")]
    media_type, body, headers = answer(read(document(outputs=outputs)), DECISIONS, "m", "v")
    assert media_type == b"application/octet-stream"
    length = int(dict(headers)[b"inference-header-content-length"])
    abstained, label, probabilities = json.loads(body[:length])["outputs"]
    assert abstained["parameters"] == {"binary_data_size": 2}
    assert label["data"] == [1, -1]
    assert probabilities["parameters"] == {"binary_data_size": 16}
    assert body[length:] == b"\0\1" + np.array([0.25, 0.75, 0, 0], "<f4").tobytes()


@given(st.binary(max_size=60), st.integers(0, 400), st.data())
def test_any_bytes_end_in_images_or_in_a_refusal(data: bytes, length: int, draw: st.DataObject) -> None:
    body = bytearray(binary(bytes(48))[0] + data)
    body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.integers(0, 255))
    for header in (None, str(length).encode(), data, str(len(body) - len(data) - 48).encode()):
        with contextlib.suppress(MalformedJson, MalformedInference, Unprocessable):
            assert read(bytes(body), header).images.shape == (2, 2, 3, 1)
