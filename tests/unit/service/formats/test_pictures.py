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
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from models.pictures.decoding import JPEG, PNG
from models.pictures.orientation import orientation
from service.errors import MalformedPicture, Problem, Unprocessable, WrongMode, WrongShape
from service.formats import pictures
from service.formats.arrays import Tensors

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


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def taken(body: bytes, tensors: Tensors) -> Any:
    """The one image of a picture, in 255ths."""
    return pictures.read(body, b"", tensors)[0] * 255


def said(body: bytes, tensors: Tensors) -> str:
    """What a refusal for the mode says."""
    with pytest.raises(WrongMode) as refusal:
        pictures.read(body, b"", tensors)
    return refusal.value.detail


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_pictures_are_colour_pictures_whose_channels_are_equal(kind: str) -> None:
    body = file("L", kind)
    grey = taken(body, GREY)
    assert np.array_equal(taken(body, COLOUR), np.repeat(grey, 3, axis=2))
    assert np.array_equal(taken(saved(Image.open(io.BytesIO(body)).convert("RGB")), GREY), grey)


def test_one_pixel_of_colour_is_enough_to_refuse_a_picture_for_grey() -> None:
    picture = Image.fromarray(PIXELS["L"]).convert("RGB")
    picture.putpixel((3, 4), (255, 0, 0))
    for kind in ("PNG", "JPEG"):
        assert "one with colours" in said(saved(picture, kind, **({} if kind == "PNG" else {"quality": 100})), GREY)


@pytest.mark.parametrize(("mode", "tensors"), [("L", GREY), ("RGB", COLOUR)])
def test_an_alpha_that_is_opaque_everywhere_is_left_out_and_no_other(mode: str, tensors: Tensors) -> None:
    picture = Image.fromarray(PIXELS[mode])
    picture.putalpha(255)
    assert np.array_equal(taken(saved(picture), tensors), taken(file(mode), tensors))
    alpha = Image.new("L", (30, 20), 255)
    alpha.putpixel((29, 19), 254)
    picture.putalpha(alpha)
    assert "transparent pixels" in said(saved(picture), tensors)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_painted_and_transparent_entries_matter_where_they_are_used(bits: int) -> None:
    most = 1 << bits
    numbers = (np.arange(600).reshape(20, 30) % most).astype(np.uint8)
    palette = np.random.default_rng(bits).integers(0, 256, (most, 3)).astype(np.uint8)
    picture = Image.fromarray(numbers, "L").convert("P")
    picture.putdata(numbers.ravel())
    picture.putpalette(palette.tobytes())
    body = saved(picture, bits=bits)
    assert body[24] == bits
    assert np.allclose(taken(body, COLOUR), palette[numbers])
    assert "one with colours" in said(body, GREY)
    assert "transparent pixels" in said(saved(picture, bits=bits, transparency=1), COLOUR)
    picture.putdata(np.minimum(numbers, most - 2).ravel())
    unused = saved(picture, bits=bits, transparency=most - 1)
    assert b"tRNS" in unused
    assert np.allclose(taken(unused, COLOUR), palette[np.minimum(numbers, most - 2)])


def test_a_pixel_beyond_its_palette_is_malformed() -> None:
    picture = Image.new("P", (30, 20), 7)
    picture.putpalette(bytes(3 * 4))
    body = saved(picture, bits=8)
    at = body.index(b"PLTE")
    length = int.from_bytes(body[at - 4 : at])
    assert refused(body[: at - 4] + chunk(b"PLTE", body[at + 4 : at + 10]) + body[at + 8 + length :], PNG, COLOUR) == (
        400,
        "malformed_picture",
    )


def test_a_transparent_colour_matters_where_a_pixel_has_it() -> None:
    assert "transparent pixels" in said(saved(Image.fromarray(PIXELS["L"]), transparency=int(PIXELS["L"][0, 0])), GREY)
    assert "transparent pixels" in said(
        saved(Image.fromarray(PIXELS["RGB"]), transparency=tuple(PIXELS["RGB"][3, 3].tolist())), COLOUR
    )
    dark = np.minimum(PIXELS["L"], 200)
    assert np.allclose(taken(saved(Image.fromarray(dark), transparency=201), GREY)[..., 0], dark)


def test_one_bit_and_sixteen_bits_of_grey_lose_nothing() -> None:
    bits = PIXELS["L"] > 127
    assert np.array_equal(taken(saved(Image.fromarray(bits)), GREY)[..., 0], bits * 255)
    deep = np.random.default_rng(1).integers(0, 1 << 16, (20, 30)).astype(np.uint16)
    image = pictures.read(saved(Image.fromarray(deep)), PNG, GREY)
    assert np.array_equal(np.rint(image[0, ..., 0].astype(np.float64) * 65535), deep)
    widened = saved(Image.fromarray(PIXELS["L"].astype(np.uint16) * 257))
    assert np.array_equal(pictures.read(widened, PNG, GREY), pictures.read(file(), PNG, GREY))
    assert pictures.read(widened, PNG, COLOUR).shape == (1, 20, 30, 3)


def test_sixteen_bits_of_colour_cmyk_and_classifiers_of_five_channels_are_refused_in_a_sentence() -> None:
    rows = b"".join(b"\0" + bytes(30 * 6) for _ in range(20))
    header = struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert said(deep, COLOUR).endswith("got 16.")
    assert "one of 4 channels, as in CMYK" in said(file("CMYK", "JPEG"), COLOUR)
    assert "takes neither" in said(file(), Tensors((20, 30, 5), 1))


def test_an_animation_is_refused_and_one_frame_is_none() -> None:
    frames = [Image.fromarray(PIXELS["L"]), Image.new("L", (30, 20))]
    assert "an animation" in said(saved(frames[0], save_all=True, append_images=frames[1:]), GREY)
    assert np.allclose(taken(png(more=chunk(b"acTL", struct.pack(">II", 1, 0))), GREY), 0)


def test_a_colour_profile_is_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("PNG", "JPEG"):
        assert np.array_equal(taken(file("RGB", kind, icc_profile=profile), COLOUR), taken(file("RGB", kind), COLOUR))


def exif(turned: int, order: str = ">", kind: int = 3) -> bytes:
    start = b"MM\0*" if order == ">" else b"II*\0"
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], turned).ljust(4, b"\0")
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 7)
    return start + struct.pack(order + "IH", 8, 2) + other + struct.pack(order + "HHI", 0x0112, kind, 1) + value + bytes(4)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("order", [">", "<"])
def test_a_picture_is_turned_upright_as_its_exif_says(turned: int, order: str) -> None:
    size = (20, 30) if turned >= 5 else (30, 20)
    for mode, tensors in (("L", GREY), ("RGB", COLOUR)):
        picture = Image.fromarray(PIXELS[mode]).resize(size)
        for kind in ("JPEG", "PNG"):
            body = saved(picture, kind, exif=b"Exif\0\0" + exif(turned, order) if kind == "JPEG" else exif(turned, order))
            wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(body)))).reshape(tensors.input_shape)
            assert np.allclose(taken(body, tensors), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_that_of_the_upright_picture(kind: str) -> None:
    start = b"Exif\0\0" if kind == "JPEG" else b""
    with pytest.raises(WrongShape, match="wrong_shape") as refusal:
        pictures.read(saved(Image.fromarray(PIXELS["L"]), kind, exif=start + exif(6)), b"", GREY)
    assert refusal.value.detail == "Expected a picture 30 pixels wide and 20 high, got 20 and 30."
    assert refused(saved(Image.new("L", (20, 30)), kind)) == (422, "wrong_shape")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"MM\0*",
        b"MM\0*\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        exif(0),
        exif(9),
        exif(6)[:-9],
        exif(6).replace(b"\x01\x12", b"\x01\x13"),
        exif(6).replace(b"MM", b"XX"),
    ],
)
def test_exif_that_says_nothing_leaves_a_picture_as_it_is(said: bytes) -> None:
    assert orientation(said) == 1
    body = saved(Image.fromarray(PIXELS["L"]), "JPEG", exif=b"Exif\0\0" + said)
    assert np.array_equal(taken(body, GREY), taken(file(kind="JPEG"), GREY))


def test_the_orientation_may_be_written_as_any_whole_number_and_the_first_exif_counts() -> None:
    assert [orientation(exif(6, order, kind)) for order in "<>" for kind in (1, 3, 4)] == [6] * 6
    body = saved(Image.fromarray(PIXELS["L"]), "JPEG", exif=b"Exif\0\0" + exif(3))
    segment = b"Exif\0\0" + exif(1)
    twice = (
        body[:-2].replace(b"\xff\xdb", b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xdb", 1) + body[-2:]
    )
    assert np.array_equal(taken(twice, GREY), taken(body, GREY))


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0", b"MM\0*", exif(6)[:20]]))
def test_any_exif_is_read_within_bounds(data: bytes, start: bytes) -> None:
    assert orientation(start + data) in range(1, 9)


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
