"""Folders of pictures as data: what is read, in which order, of which size, and what is refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.errors import InvalidInput
from models.pictures import folders
from models.pictures.folders import PictureFolder, is_picture_folder, list_pictures, positions, read_pictures

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog", "eel")


def picture(seed: int, size: tuple[int, int] = (6, 5), colour: bool = True) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3) if colour else size, np.uint8)


def folder(path: Path, *, each: int = 4, colour: bool = True, ending: str = "png", **options: Any) -> Path:
    """Pictures 6 high and 5 wide, three classes."""
    for label, name in enumerate(CLASSES):
        (path / name).mkdir(parents=True)
        for at in range(each):
            Image.fromarray(picture(10 * label + at, colour=colour)).save(path / name / f"{at}.{ending}", **options)
    return path


def test_every_picture_is_a_sample_with_the_label_of_its_folder(tmp_path: Path) -> None:
    listed = list_pictures(folder(tmp_path / "data"))
    assert listed.classes == CLASSES
    stored = read_pictures(listed)
    assert stored.raw.dtype == np.uint8
    assert (stored.shape, len(stored)) == ((6, 5, 3), 12)
    for name, label, image in zip(listed.names, stored.labels, stored.raw, strict=True):
        kind, at = name.removesuffix(".png").split("/")
        assert CLASSES[label] == kind
        np.testing.assert_array_equal(image, picture(10 * int(label) + int(at)))
    np.testing.assert_allclose(stored.images(slice(0, 1))[0], stored.raw[0] / np.float32(255))


def test_the_order_mixes_the_classes_and_is_the_same_elsewhere(tmp_path: Path) -> None:
    one, other = (list_pictures(folder(tmp_path / name, each=20)) for name in ("a", "b"))
    assert one.names == other.names
    assert len(set(one.take(slice(0, 15)).labels)) == 3
    assert np.bincount(one.labels).tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("ending", "options"), [("bmp", {}), ("webp", {"lossless": True}), ("PNG", {}), ("jpeg", {"quality": 100, "subsampling": 0})]
)
@pytest.mark.parametrize("colour", [True, False])
def test_the_four_formats_are_read(tmp_path: Path, ending: str, options: dict[str, Any], colour: bool) -> None:
    stored = read_pictures(list_pictures(folder(tmp_path, ending=ending, colour=colour, **options)))
    assert stored.shape == (6, 5, 3 if colour else 1)
    first = list_pictures(tmp_path).names.index(f"cat/0.{ending}")
    wanted = picture(0, colour=colour).reshape(6, 5, -1)
    assert np.abs(stored.raw[first].astype(int) - wanted).mean() < (3 if ending == "jpeg" else 0.5)


def test_grey_pictures_among_colours_become_rgb_and_pictures_without_colour_grey(tmp_path: Path) -> None:
    folder(tmp_path, colour=False)
    assert read_pictures(list_pictures(tmp_path)).shape == (6, 5, 1)
    assert read_pictures(list_pictures(tmp_path), colours=True).shape == (6, 5, 3)
    Image.fromarray(picture(1)).save(tmp_path / "dog" / "red.png")
    assert read_pictures(list_pictures(tmp_path)).shape == (6, 5, 3)
    with pytest.raises(InvalidInput, match=r"1 of 13 pictures .* cannot be used: dog/red.png \(expected a grey picture"):
        read_pictures(list_pictures(tmp_path), colours=False)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    folder(tmp_path, ending="webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    turned = Image.fromarray(np.rot90(picture(77)).copy())
    turned.save(tmp_path / "cat" / "turned.webp", lossless=True, exif=exif)
    listed = list_pictures(tmp_path)
    np.testing.assert_array_equal(read_pictures(listed).raw[listed.names.index("cat/turned.webp")], picture(77))


def test_pictures_of_different_sizes_are_resized_where_told_and_named_where_not(tmp_path: Path) -> None:
    folder(tmp_path)
    Image.fromarray(picture(5, (12, 10))).save(tmp_path / "eel" / "large.jpg")
    with pytest.raises(InvalidInput, match=r"expected pictures of one size, got .*eel/large.jpg of 10 by 12.*--resize"):
        read_pictures(list_pictures(tmp_path))
    stored = read_pictures(list_pictures(tmp_path), size=(8, 4))
    assert stored.shape == (8, 4, 3)
    expected = np.asarray(Image.fromarray(picture(0)).resize((4, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(stored.raw[list_pictures(tmp_path).names.index("cat/0.png")], expected)


def broken() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.fromarray(picture(3, (40, 40))).save(whole, "JPEG")
    clear, cmyk, moving = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (5, 6), (1, 2, 3, 4)).save(clear, "PNG")
    Image.new("CMYK", (5, 6)).save(cmyk, "JPEG")
    Image.new("RGB", (5, 6)).save(moving, "WEBP", save_all=True, append_images=[Image.new("RGB", (5, 6), (9, 9, 9))])
    bmp, webp = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(3)).save(bmp, "BMP")
    Image.fromarray(picture(3, (40, 40))).save(webp, "WEBP")
    return {
        "cut.jpg": whole.getvalue()[:-200],
        "text.png": b"no picture",
        "empty.jpg": b"",
        "clear.png": clear.getvalue(),
        "print.jpg": cmyk.getvalue(),
        "moving.webp": moving.getvalue(),
        "cut.bmp": bmp.getvalue()[:-20],
        "cut.webp": webp.getvalue()[:60],
    }


@pytest.mark.parametrize("name", broken())
def test_a_picture_that_cannot_be_used_is_named_and_the_reason_too(tmp_path: Path, name: str) -> None:
    folder(tmp_path)
    (tmp_path / "dog" / name).write_bytes(broken()[name])
    with pytest.raises(InvalidInput, match=rf"1 of 13 pictures in .* cannot be used: dog/{name} \(expected "):
        read_pictures(list_pictures(tmp_path))


def test_of_many_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    for at in range(9):
        (tmp_path / "dog" / f"bad{at}.png").write_bytes(b"?")
    with pytest.raises(InvalidInput, match=r"9 of 21 pictures .*; and 4 more$"):
        read_pictures(list_pictures(tmp_path))


def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    folder(tmp_path)
    header = io.BytesIO()
    Image.new("1", (9000, 9000)).save(header, "PNG")
    (tmp_path / "dog" / "bomb.png").write_bytes(header.getvalue())
    with pytest.raises(InvalidInput, match=r"dog/bomb.png \(expected a picture of at most 67,108,864 pixels, got 9000 by 9000"):
        read_pictures(list_pictures(tmp_path))


def test_large_folders_are_mapped_from_disk_and_refused_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_pictures(folder(tmp_path / "data"))
    monkeypatch.setattr(folders, "IN_MEMORY_AT_MOST", 100)
    stored = read_pictures(listed, unpack_to=tmp_path / "work")
    assert isinstance(stored.raw, np.memmap)
    np.testing.assert_array_equal(stored.raw, read_pictures(listed).raw)
    monkeypatch.setattr(folders, "_IN_MEMORY_WITHOUT_ROOM", 100)
    with pytest.raises(InvalidInput, match=r"make them smaller with --resize, or take some with --rows"):
        read_pictures(listed)


NO_FOLDERS: dict[str, tuple[Any, str]] = {
    "one class": (lambda path: (path / "cat").mkdir(), "two at least, got .* with 1 sub-folder and 0 pictures in them"),
    "nothing": (lambda path: None, "expected a folder with one sub-folder of pictures a class"),
    "halves": (
        lambda path: folder(path / "train"),
        r"got cat/, dog/, eel/; --data is the folder whose sub-folders are the classes",
    ),
    "another format": (
        lambda path: (folder(path) / "cat" / "x.gif").write_bytes(b"GIF89a"),
        r"expected only pictures .* got x.gif",
    ),
}


@pytest.mark.parametrize(("made", "message"), NO_FOLDERS.values(), ids=NO_FOLDERS)
def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path, made: Any, message: str) -> None:
    made(tmp_path)
    assert is_picture_folder(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        list_pictures(tmp_path)


def test_what_file_managers_leave_is_not_seen(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"?")
    (tmp_path / ".git").mkdir()
    assert len(list_pictures(tmp_path)) == 12


def test_labels_go_by_name_and_by_order_only_where_the_classifier_has_no_names(tmp_path: Path) -> None:
    listed = list_pictures(folder(tmp_path))
    ordered = listed.ordered(["dog", "fox", "eel", "cat"])
    assert isinstance(ordered, PictureFolder)
    assert [ordered.classes[label] for label in ordered.labels] == [name.split("/")[0] for name in ordered.names]
    assert positions(CLASSES, ("0", "1", "2")).tolist() == [0, 1, 2]
    with pytest.raises(
        InvalidInput, match=r"expected sub-folders named as the classes 0, 1, 2, 3, got cat, dog, eel; rename them"
    ):
        positions(CLASSES, ("0", "1", "2", "3"))
    with pytest.raises(InvalidInput, match=r"got eel; rename"):
        positions(CLASSES, ("cat", "dog", "Eel"))
