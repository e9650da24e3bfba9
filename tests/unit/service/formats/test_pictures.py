"""What a picture has to be, case by case."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from service.errors import MalformedPicture, Problem, Unprocessable
from service.formats import pictures
from service.formats.arrays import Tensors
from service.formats.pictures import JPEG, PNG

GREY, COLOUR = Tensors((20, 30, 1), 4), Tensors((20, 30, 3), 4)
rng = np.random.default_rng(0)
PIXELS = {"L": rng.integers(0, 256, (20, 30), np.uint8), "RGB": rng.integers(0, 256, (20, 30, 3), np.uint8)}


def file(mode: str = "L", kind: str = "PNG", *, size: tuple[int, int] = (30, 20), **options: Any) -> bytes:
    picture = Image.fromarray(PIXELS[mode]) if mode in PIXELS else Image.new(mode, (30, 20))
    out = io.BytesIO()
    picture.resize(size).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 30, height: int = 20, data: bytes | None = None, *, more: bytes = b"", bits: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes((30 + 1) * 20)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused(body: bytes, media_type: bytes = b"", tensors: Tensors = GREY) -> tuple[int, str]:
    with pytest.raises(Problem) as refusal:
        pictures.read(body, media_type, tensors)
    return refusal.value.status, refusal.value.code


@pytest.mark.parametrize(("mode", "tensors"), [("L", GREY), ("RGB", COLOUR)])
@pytest.mark.parametrize("media_type", [PNG, b""])
def test_a_png_is_read_pixel_by_pixel(mode: str, tensors: Tensors, media_type: bytes) -> None:
    image = pictures.read(file(mode), media_type, tensors)
    assert np.array_equal(image, (PIXELS[mode] / 255).astype(np.float32).reshape(1, *tensors.input_shape))
    assert image.flags.carray


@pytest.mark.parametrize(("mode", "tensors"), [("L", GREY), ("RGB", COLOUR)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"x" * 60_000}])
def test_a_jpeg_is_read_as_pillow_reads_it(mode: str, tensors: Tensors, options: dict[str, Any]) -> None:
    body = file(mode, "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(body)))
    image = pictures.read(body, JPEG, tensors)
    assert np.array_equal(image, (expected / 255).astype(np.float32).reshape(1, *tensors.input_shape))


def test_metadata_is_left_out_and_changes_nothing() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 1000, zip=True)
    plain = pictures.read(file(), PNG, GREY)
    assert np.array_equal(pictures.read(file(pnginfo=texts, icc_profile=b"no profile"), PNG, GREY), plain)
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    with_exif = pictures.read(file("RGB", "JPEG", exif=exif), JPEG, COLOUR)
    assert np.array_equal(with_exif, pictures.read(file("RGB", "JPEG"), JPEG, COLOUR))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(20, 30), (29, 20), (1, 1), (300, 200)])
def test_another_size_is_refused(kind: str, size: tuple[int, int]) -> None:
    assert refused(file(kind=kind, size=size)) == (422, "wrong_shape")


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
@pytest.mark.parametrize("tensors", [GREY, COLOUR])
def test_other_modes_of_png_are_refused(mode: str, tensors: Tensors) -> None:
    assert refused(file(mode), PNG, tensors) == (422, "wrong_mode")


@pytest.mark.parametrize(("mode", "kind", "tensors"), [("L", "PNG", COLOUR), ("RGB", "PNG", GREY), ("L", "JPEG", COLOUR)])
def test_a_picture_has_the_channels_of_the_classifier(mode: str, kind: str, tensors: Tensors) -> None:
    assert refused(file(mode, kind), b"", tensors) == (422, "wrong_mode")


def test_jpegs_in_cmyk_and_classifiers_of_five_channels_take_no_picture() -> None:
    assert refused(file("CMYK", "JPEG"), JPEG, COLOUR) == (422, "wrong_mode")
    assert refused(file(), PNG, Tensors((20, 30, 5), 1)) == (422, "wrong_mode")


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", PNG),
        (b"", b""),
        (file(), JPEG),
        (file(kind="JPEG"), PNG),
        (file(kind="GIF"), b""),
        (file(kind="BMP"), PNG),
        (file(kind="TIFF"), b""),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", PNG),
        (file() + b"\0", PNG),
        (file().replace(b"IEND", b"IENE"), PNG),
        (file().replace(b"IDAT", b"IDAX"), PNG),
        (png(data=b"no zlib stream"), PNG),
        (png(data=zlib.compress(bytes(100))), PNG),
        (png(more=chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))), PNG),
        (b"\xff\xd8\xff", JPEG),
        (b"\xff\xd8\xff\xd9", JPEG),
        (b"\xff\xd8" + b"\xff" * 500, JPEG),
        (b"\xff\xd8\xff\xe0\x00\x00" * 9, JPEG),
    ],
)
def test_what_is_no_whole_picture_of_its_type_is_malformed(body: bytes, media_type: bytes) -> None:
    assert refused(body, media_type) == (400, "malformed_picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_picture_is_malformed(kind: str, part: float) -> None:
    body = file(kind=kind)
    assert refused(body[: int(len(body) * part)]) == (400, "malformed_picture")


RESTARTS: tuple[dict[str, Any], ...] = (
    {"restart_marker_blocks": 1},
    {"restart_marker_rows": 1},
    {"restart_marker_rows": 1, "progressive": True},
)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"quality": 95}, *RESTARTS])
@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5, 0.9])
def test_a_jpeg_whose_data_end_too_early_is_malformed_although_it_has_an_end(options: dict[str, Any], lost: float) -> None:
    for mode, tensors in (("L", GREY), ("RGB", COLOUR)):
        body = file(mode, "JPEG", **options)
        last = body.rindex(b"\xff\xda") + 2
        data = last + int.from_bytes(body[last : last + 2], "big")
        kept = int((len(body) - 2 - data) * (1 - lost))
        short = body[: data + kept].rstrip(b"\xff") + b"\xff\xd9"
        if lost:
            assert Image.open(io.BytesIO(short)).tobytes() != Image.open(io.BytesIO(body)).tobytes()
            assert refused(short, JPEG, tensors) == (400, "malformed_picture")
        else:
            pictures.read(short, JPEG, tensors)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["L", "RGB"]), st.integers(1, 100), st.data())
def test_a_whole_jpeg_is_never_taken_for_a_short_one(h: int, w: int, mode: str, quality: int, data: st.DataObject) -> None:
    options: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"progressive": True}, {"optimize": True}, {"subsampling": 2}, *RESTARTS])
    )
    shape = (h, w, len(mode))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, data.draw(st.integers(1, 256)), shape, np.uint8)
    out = io.BytesIO()
    Image.fromarray(values.squeeze(2) if mode == "L" else values).save(out, "JPEG", quality=quality, **options)
    image = pictures.read(out.getvalue(), JPEG, Tensors(shape, 1))
    assert np.array_equal(image, (np.asarray(Image.open(out)) / 255).astype(np.float32).reshape(1, *shape))


def test_fill_bytes_before_markers_and_floods_of_markers_cost_nothing() -> None:
    body = file("RGB", "JPEG", restart_marker_blocks=1)
    at = body.index(b"\xff\xd0")
    filled = body[:at] + b"\xff" * 1000 + body[at:-2] + b"\xff" * 1000 + body[-2:]
    assert np.array_equal(pictures.read(filled, JPEG, COLOUR), pictures.read(body, JPEG, COLOUR))
    started = time.perf_counter()
    for flood in (b"\xff" * 400_000, b"\xff\x00" * 200_000, b"\xff\xd0" * 200_000, b"\xff\xc4\0\2" * 100_000):
        with contextlib.suppress(MalformedPicture):
            pictures.read(body[:-2] + flood + body[-2:], JPEG, COLOUR)
    assert time.perf_counter() - started < 0.5


def test_a_png_with_a_wrong_checksum_is_malformed() -> None:
    body = bytearray(file())
    body[len(body) // 2] ^= 1
    assert refused(bytes(body)) == (400, "malformed_picture")


@pytest.mark.parametrize("rows", [0, 1, 10, 19, 21, 40])
def test_a_png_with_fewer_or_more_rows_than_it_says_is_malformed(rows: int) -> None:
    assert refused(png(data=zlib.compress(bytes(31 * rows)))) == (400, "malformed_picture")
    assert refused(png(data=zlib.compress(bytes(31 * rows + 5)))) == (400, "malformed_picture")


@pytest.mark.parametrize(("mode", "tensors"), [("L", GREY), ("RGB", COLOUR)])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_an_interlaced_png_is_read_when_all_of_its_passes_are_there(mode: str, tensors: Tensors, part: float) -> None:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    taken = [PIXELS[mode][row::down, column::right] for row, column, down, right in passes]
    data = b"".join(b"\0" + row.tobytes() for rows in taken for row in rows)
    header = struct.pack(">IIBBBBB", 30, 20, 8, {"L": 0, "RGB": 2}[mode], 0, 0, 1)
    pixels = chunk(b"IDAT", zlib.compress(data[: int(part * len(data))]))
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
    if part < 1:
        assert refused(body, PNG, tensors) == (400, "malformed_picture")
    else:
        image = pictures.read(body, PNG, tensors)
        assert np.array_equal(image, (PIXELS[mode] / 255).astype(np.float32).reshape(1, *tensors.input_shape))


def test_bombs_cost_nothing() -> None:
    gigabyte = zlib.compress(bytes(10_000_000))
    texts = b"".join(chunk(b"zTXt", b"a\0\0" + gigabyte) for _ in range(50))
    jpeg = file(kind="JPEG", progressive=True)
    many_scans = jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 200 + jpeg[-2:]
    started = time.perf_counter()
    assert refused(png(60000, 60000, gigabyte)) == (422, "wrong_shape")
    assert pictures.read(png(more=texts), PNG, GREY).max() == 0
    assert refused(png(data=gigabyte)) == (400, "malformed_picture")
    assert refused(many_scans) == (400, "malformed_picture")
    assert time.perf_counter() - started < 0.5


def test_two_frames_are_malformed() -> None:
    body = file(kind="JPEG")
    frame = body.index(b"\xff\xc0")
    assert refused(body[:frame] + body[frame : frame + 13] + body[frame:]) == (400, "malformed_picture")


@given(st.sampled_from([file(), file("RGB"), file(kind="JPEG"), file("RGB", "JPEG", progressive=True)]), st.data())
def test_any_damage_ends_in_an_image_or_in_a_refusal(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for at in data.draw(st.lists(st.integers(2, len(body) - 1), max_size=5)):
        damaged[at] = data.draw(st.integers(0, 255))
    for tensors in (GREY, COLOUR):
        with contextlib.suppress(MalformedPicture, Unprocessable):
            image = pictures.read(bytes(damaged), b"", tensors)
            assert image.shape == (1, *tensors.input_shape)
            assert 0 <= image.min() <= image.max() <= 1
