"""What a load test sends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loadtest.payloads import KINDS, SHIPPED, as_json, as_npy, malformed, oversize, read_images


def test_the_file_that_ships_holds_every_kind_and_is_small() -> None:
    images = read_images(SHIPPED)
    assert set(images) == set(KINDS)
    assert {found.shape for found in images.values()} == {(128, 28, 28)}
    assert SHIPPED.stat().st_size < 200_000


def test_a_file_without_a_kind_or_with_other_numbers_is_refused(tmp_path: Path) -> None:
    image = np.zeros((1, 4, 4), np.uint8)
    np.savez(tmp_path / "less.npz", clean=image)
    with pytest.raises(ValueError, match="to hold the arrays clean, adversarial, triggered, got clean"):
        read_images(tmp_path / "less.npz")
    np.savez(tmp_path / "float.npz", clean=image, adversarial=image / 2, triggered=image)
    with pytest.raises(ValueError, match=r"expected adversarial in .* got float64"):
        read_images(tmp_path / "float.npz")


def test_images_are_sent_as_numbers_in_0_to_1_or_as_they_are() -> None:
    image = read_images(SHIPPED)["clean"][:2]
    numbers = np.array(json.loads(as_json("clean", image).body)["images"])
    np.testing.assert_allclose(numbers, image / 255, atol=5e-5)
    assert as_npy("clean", image).body.endswith(image.tobytes())
    assert as_json("thief", image).images == 2


def test_every_bad_input_says_which_refusal_is_due() -> None:
    requests = [*malformed(read_images(SHIPPED)["clean"][0]), oversize()]
    assert {status for request in requests for status in request.due} == {400, 413, 415, 422}
    assert len({request.body for request in requests}) == len(requests)
