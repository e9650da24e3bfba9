"""What a .npy body has to be, case by case."""

from __future__ import annotations

import contextlib
import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import MalformedNpy, Problem, Unprocessable, WrongDatatype
from service.formats import npy
from service.formats.arrays import Tensors

GREY = Tensors((2, 3, 1), 4)


def file(array: Any, version: Any = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array), version)
    return out.getvalue()


def with_header(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(1, 2, 3)") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


def refused(body: bytes) -> tuple[int, str]:
    with pytest.raises(Problem) as refusal:
        npy.read(body, GREY)
    return refusal.value.status, refusal.value.code


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(version: tuple[int, int]) -> None:
    images = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3, 1)
    assert np.array_equal(npy.read(file(images, version), GREY), images)


DATATYPES: Any = st.sampled_from([np.dtype("<f4"), np.dtype(">f4"), np.dtype("u1")])


@given(
    arrays.arrays(
        DATATYPES,
        st.tuples(st.integers(1, 4), st.just(2), st.just(3)),
        elements={"min_value": 0, "max_value": 1},
    ),
    st.booleans(),
    st.booleans(),
)
def test_what_numpy_saves_is_read_bit_for_bit(array: Any, deep: bool, fortran: bool) -> None:
    array = array[..., None] if deep else array
    images = npy.read(file(np.asfortranarray(array) if fortran else array), GREY)
    expected = array.astype(np.float32) / np.float32(255 if array.dtype == np.uint8 else 1)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert np.array_equal(images, expected.reshape(-1, 2, 3, 1))


def test_the_order_of_the_keys_and_the_space_between_them_do_not_matter() -> None:
    text = b"{'shape':(1,2,3),'fortran_order':False,'descr':'|u1'}"
    assert npy.read(with_header(text, b"\xff" * 6), GREY).tolist() == np.ones((1, 2, 3, 1)).tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x80\x04\x95\x1a",
        b"PK\x03\x04",
        with_header(header(), bytes(24), b"\x04\x00"),
        with_header(header(), bytes(23)),
        with_header(header(), bytes(25)),
        with_header(header(), bytes(48)),
        with_header(header(shape="(4, 2, 3)"), bytes(24)),
        with_header(header("'|u1'"), bytes(24)),
        with_header(header() + b" " * 5000, bytes(24)),
        with_header(b"", bytes(24)),
        with_header(b"{}", bytes(24)),
        with_header(b"[1]", bytes(24)),
        with_header(b"{'descr': '<f4', 'fortran_order': False}", bytes(24)),
        with_header(b"{'descr': '<f4', 'shape': (1, 2, 3), 'shape': (1, 2, 3)}", bytes(24)),
        with_header(header()[:-3] + b" 'more': 1}", bytes(24)),
        with_header(header(descr="True"), bytes(24)),
        with_header(header(order="'no'"), bytes(24)),
        with_header(header(shape="[1, 2, 3]"), bytes(24)),
        with_header(header(shape="(1, 2 3)"), bytes(24)),
        with_header(header(shape="(1, -2, 3)"), bytes(24)),
        with_header(header(shape="(1.0, 2, 3)"), bytes(24)),
        with_header(header(shape="(__import__('os'), 2, 3)"), bytes(24)),
        with_header(header(shape="(" * 1000), bytes(24)),
        with_header(header(shape=f"({'9' * 3000}, 2, 3)"), bytes(24)),
    ],
)
def test_what_is_not_one_npy_file_or_lies_about_its_length_is_malformed(body: bytes) -> None:
    assert refused(body) == (400, "malformed_npy")


@pytest.mark.parametrize("dtype", ["<f8", "<f2", "|i1", "<i8", "<u2", "?", "<c8", "S4", "U1", "O", "M8[s]", "V4", "f4,u1"])
def test_other_numbers_are_refused_and_nothing_is_unpickled(dtype: str) -> None:
    assert refused(file(np.zeros((1, 2, 3), dtype))) == (422, "wrong_datatype")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("<f8", "float64"), (">f2", "float16"), ("<i8", "int64"), ("|i1", "int8"), ("<u2", "uint16"), ("?", "bool")],
)
def test_a_refusal_names_the_type_that_came(dtype: str, name: str) -> None:
    with pytest.raises(WrongDatatype) as refusal:
        npy.read(file(np.zeros((1, 2, 3), dtype)), GREY)
    assert refusal.value.detail.endswith(f"got {name}.")
    with pytest.raises(WrongDatatype) as refusal:
        npy.read(with_header(header(descr="'<script>'"), bytes(24)), GREY)
    assert refusal.value.detail.endswith("got another.")


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ("()", "wrong_shape"),
        ("(6,)", "wrong_shape"),
        ("(1, 3, 2)", "wrong_shape"),
        ("(2, 3)", "wrong_shape"),
        ("(999999999999999999, 999999999999999999, 999999999999999999)", "wrong_shape"),
        ("(0, 2, 3)", "no_images"),
        ("(5, 2, 3)", "too_many_images"),
        ("(999999999999999999, 2, 3)", "too_many_images"),
    ],
)
def test_a_shape_is_judged_before_there_is_an_array(shape: str, code: str) -> None:
    assert refused(with_header(header(shape=shape), bytes(24))) == (422, code)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5, -0.1, 255])
def test_a_number_out_of_range_is_refused(bad: float) -> None:
    assert refused(file(np.full((1, 2, 3), bad, ">f4"))) == (422, "out_of_range")


@pytest.mark.parametrize("text", [b"'shape': [],", b"'shape': (", b"'shape': (1,", b"1, ", b" ", b"'descr': '<f4', "])
def test_a_header_made_to_be_slow_is_not(text: bytes) -> None:
    started = time.perf_counter()
    refused(with_header(b"{" + text * (4000 // len(text)), bytes(24)))
    refused(with_header(header(shape="(" + "1, " * 1300 + "x)"), bytes(24)))
    assert time.perf_counter() - started < 0.1


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_in_images_or_in_a_refusal(data: bytes, real_start: bool) -> None:
    body = with_header(header(), data) if real_start else data
    with contextlib.suppress(MalformedNpy, Unprocessable):
        assert npy.read(body, GREY).shape == (1, 2, 3, 1)
