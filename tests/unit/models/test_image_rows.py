"""Images that are read a block at a time: the same numbers as arrays, and never all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.datasets import Dataset, as_images, digest_of, in_memory, load_dataset, load_packed, shared_images
from models.errors import InvalidInput
from models.image_rows import PackedDataset, PackedImages, answers_for, blocks, outputs_for
from models.stored_images import open_samples
from tests.fakes import linear

PICTURES = np.random.default_rng(0).integers(0, 256, (37, 6, 5, 3), np.uint8)
LABELS = np.arange(37) % 4


def test_packed_images_are_the_images_that_an_array_of_them_would_be() -> None:
    packed, array = PackedImages(PICTURES), as_images(PICTURES)
    assert (packed.shape, len(packed)) == (array.shape, len(array))
    for rows in (slice(None), slice(3, 9), slice(30, 99), np.array([5, 0, 5]), slice(0, 0)):
        np.testing.assert_array_equal(packed[rows], array[rows])


def test_rows_of_rows_are_the_rows_they_say() -> None:
    data, arrays = PackedDataset(PackedImages(PICTURES), LABELS), Dataset(as_images(PICTURES), LABELS)
    order = np.random.default_rng(1).permutation(37)
    for take in (order, order[:10], slice(5, 20)):
        one, other = data.take(take).take(slice(1, None)), arrays.take(take).take(slice(1, None))
        np.testing.assert_array_equal(one.images[:], other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert digest_of(one) == digest_of(other)
    assert data.take(order).images.raw is PICTURES  # nothing was copied


def test_grey_pictures_get_their_channel() -> None:
    assert PackedImages(PICTURES[..., 0]).shape == (37, 6, 5, 1)
    assert PackedImages(PICTURES[..., 0])[2:4].shape == (2, 6, 5, 1)


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan, 1e39])
def test_numbers_that_are_no_image_are_refused_where_they_are_read(value: float) -> None:
    raw = np.zeros((4, 3, 3, 1))
    raw[2, 1, 1] = value
    packed = PackedImages(raw, name="clean.npz")
    assert packed[:2].shape == (2, 3, 3, 1)
    with pytest.raises(InvalidInput, match=r"expected float images within 0..1 in clean\.npz"):
        packed[2:]


def test_blocks_cover_everything_once_and_are_bounded() -> None:
    found = list(blocks(PackedImages(PICTURES), numbers_at_most=6 * 5 * 3 * 10))
    assert [block.stop - block.start for block in found] == [10, 10, 10, 7]
    assert [block.start for block in found] == [0, 10, 20, 30]
    assert len(list(blocks(PackedImages(PICTURES), numbers_at_most=1))) == 37


class Reading(PackedImages):
    """Remembers the largest block that was read of it."""

    largest = 0

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        found = super().__getitem__(rows)
        Reading.largest = max(Reading.largest, found.nbytes)
        return found


def test_a_classifier_is_asked_a_block_at_a_time() -> None:
    pictures = np.zeros((200, 224, 224, 3), np.uint8)
    classifier = linear((224, 224, 3), 2)
    outputs = outputs_for(classifier, Reading(pictures))
    assert outputs.shape == (200, 2)
    assert Reading.largest <= 32 << 20 < 200 * 224 * 224 * 3 * 4
    assert sum(classifier.calls) == 200
    assert answers_for(classifier, PackedImages(pictures[:0])).shape == (0,)


def test_a_file_of_pictures_stays_bytes_and_a_file_of_floats_stays_floats(tmp_path: Path) -> None:
    np.savez(tmp_path / "bytes.npz", images=PICTURES, labels=LABELS)
    np.savez(tmp_path / "floats.npz", images=as_images(PICTURES), labels=LABELS)
    for name in ("bytes.npz", "floats.npz"):
        packed, plain = load_packed(tmp_path / name), load_dataset(tmp_path / name)
        np.testing.assert_array_equal(in_memory(packed).images, plain.images)
        np.testing.assert_array_equal(packed.labels, plain.labels)
    assert isinstance(load_packed(tmp_path / "bytes.npz"), PackedDataset)
    assert shared_images(load_packed(tmp_path / "bytes.npz"), load_packed(tmp_path / "floats.npz")) == 37


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": PICTURES, "labels": LABELS[:-1]}, "expected one label per image"),
        ({"images": PICTURES[:0], "labels": LABELS[:0]}, "expected at least one image"),
        ({"images": PICTURES[0], "labels": LABELS}, "expected one label per image in wrong.npz, got 6 images"),
        ({"images": PICTURES[0, 0], "labels": LABELS}, r"expected images \[n, h, w\]"),
        ({"images": np.moveaxis(PICTURES, -1, 1), "labels": LABELS}, "channels first"),
        ({"images": PICTURES, "labels": LABELS - 1}, "expected labels from 0"),
    ],
)
def test_a_file_of_pictures_is_checked_as_any_other(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(InvalidInput, match=complaint):
        load_packed(tmp_path / "wrong.npz")


def test_a_directory_of_arrays_stays_on_disk_and_is_checked_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PICTURES)
    np.save(tmp_path / "labels.npy", LABELS)
    data = open_samples(tmp_path)
    np.testing.assert_array_equal(data.images[:], as_images(PICTURES))
    np.save(tmp_path / "images.npy", np.full((37, 4, 4, 1), 2.0))
    with pytest.raises(InvalidInput, match=r"within 0\.\.1"):
        open_samples(tmp_path)
