"""Small archives that would become large, and arrays that claim to be."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import Any, BinaryIO

import numpy as np
import pytest

from models.archives import FOR_BUNDLES, OutOfBounds, Room, array_names, check_file, read_array, read_arrays

SMALL = Room(10_000, 4)


def archived(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> BinaryIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file


def array(shape: tuple[int, ...], data: bytes, descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def test_arrays_are_read_as_numpy_reads_them_all_or_some() -> None:
    arrays: dict[str, Any] = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array("text"),
        "c": np.asfortranarray(np.eye(3)),
        "d": np.array(0.5),
    }
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        found = read_arrays(file, room=SMALL)
        assert found.keys() == arrays.keys()
        for name, expected in arrays.items():
            np.testing.assert_array_equal(found[name], expected)
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert array_names(file) == list(arrays)
        assert list(read_arrays(file, room=SMALL, only=("b", "none"))) == ["b"]


def test_a_small_archive_that_would_unpack_to_much_is_refused_before_it_is_unpacked() -> None:
    bomb = archived(calibration=array((300 << 20,), bytes(300 << 20)))
    assert len(bomb.getvalue()) < 1 << 20  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        with pytest.raises(OutOfBounds, match=r"would unpack to 300.0 MiB, expected 256.0 MiB at most for a file of 0.3 MiB"):
            read_arrays(bomb, room=FOR_BUNDLES)
        with pytest.raises(OutOfBounds, match="would unpack"):
            check_file(bomb, FOR_BUNDLES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_many_members_are_counted_together() -> None:
    with pytest.raises(OutOfBounds, match="would unpack"):
        read_arrays(archived(zipfile.ZIP_DEFLATED, **{f"a{i}": array((1000,), bytes(1000)) for i in range(12)}), room=SMALL)


def test_a_large_archive_that_hardly_compresses_is_read() -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    assert read_arrays(archived(a=array((20_000,), noise)), room=SMALL)["a"].tobytes() == noise


@pytest.mark.parametrize("shape", [(1 << 40,), (9,), (11,), (0,), (1 << 62, 1 << 62), (-10,)])
def test_an_array_whose_header_claims_another_size_than_it_has_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutOfBounds, match="whose header claims"):
        read_arrays(archived(a=array(shape, bytes(10))), room=SMALL)
    with pytest.raises(OutOfBounds, match="whose header claims"):
        read_array(io.BytesIO(array(shape, bytes(10))))


def test_one_array_is_read_as_numpy_reads_it() -> None:
    for expected in (np.arange(5), np.array(True), np.eye(2, dtype=bool)):
        file = io.BytesIO()
        np.save(file, expected)
        np.testing.assert_array_equal(read_array(file), expected)


def test_pickles_other_formats_doubled_names_and_unbounded_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(archived(a=array((1,), b"\x80\x04.", "|O")), room=SMALL)
    with pytest.raises(ValueError, match=r"format 1\.0 or 2\.0"):
        read_arrays(archived(a=b"\x93NUMPY\x09\x00" + bytes(100)), room=SMALL)
    with pytest.raises(ValueError, match="magic"):
        read_arrays(archived(a=b"hello, this is no array"), room=SMALL)
    with pytest.raises(ValueError, match="stored or deflated"):
        read_arrays(archived(zipfile.ZIP_BZIP2, a=array((1,), b"x")), room=SMALL)
    twice = archived(a=array((1,), b"x"))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("a.npy", array((1,), b"y"))
    with pytest.raises(ValueError, match="twice"):
        read_arrays(twice, room=SMALL)
