"""Keyed randomness against published vectors (RFC 7693, SplitMix64) and plain-Python references."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from defences.keyed import image_keys, keyed_permutations
from defences.purifiers.total_variation import TotalVariation

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15
# The first outputs of SplitMix64 from the seed 1234567, as listed with the reference implementation (prng.di.unimi.it).
SEED = 1234567
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def splitmix64(seed: int, n: int) -> list[int]:
    """The generator of Steele, Lea & Flood 2014 in plain integers."""
    words = []
    for i in range(1, n + 1):
        z = (seed + i * GOLDEN) % WORD
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        words.append(z ^ (z >> 31))
    return words


def test_the_reference_gives_the_published_words() -> None:
    assert splitmix64(SEED, 5) == PUBLISHED


def test_masks_keep_a_pixel_when_its_splitmix64_word_is_below_the_keep_probability() -> None:
    for keep in (0.05, 0.3, 0.8):
        masks = TotalVariation(weight=0.1, keep_probability=keep).masks((1, 6, 7, 1), np.array([SEED], np.uint64))
        expected = [(word >> 11) / 2**53 < keep for word in splitmix64(SEED, 42)]
        np.testing.assert_array_equal(masks.reshape(-1), expected)


def test_permutations_are_fisher_yates_on_splitmix64() -> None:
    for seed in (SEED, 0, WORD - 1):
        expected = list(range(20))
        for i, word in reversed(list(enumerate(splitmix64(seed, 19), start=1))):
            expected[i], expected[word % (i + 1)] = expected[word % (i + 1)], expected[i]
        assert keyed_permutations(np.array([seed], np.uint64), 20)[0].tolist() == expected


def test_every_order_is_as_likely_as_every_other() -> None:
    orders = keyed_permutations(np.arange(12000, dtype=np.uint64), 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3


def test_the_share_of_kept_pixels_is_the_keep_probability() -> None:
    masks = TotalVariation(weight=0.1, keep_probability=0.3).masks((50, 20, 20, 3), np.arange(50, dtype=np.uint64))
    low, high = binom.interval(0.999, masks.size, 0.3)
    assert low <= masks.sum() <= high


def test_masks_of_neighbouring_channels_and_images_do_not_repeat_each_other() -> None:
    masks = TotalVariation(weight=0.1, keep_probability=0.5).masks((40, 16, 16, 3), np.arange(40, dtype=np.uint64))
    planes = masks.transpose(0, 3, 1, 2).reshape(120, -1) - 0.5
    correlations = np.corrcoef(planes)[np.triu_indices(120, k=1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(256)
    shifted = np.corrcoef(planes[:, 1:], planes[:, :-1])[:120, 120:]
    assert np.abs(shifted).max() < 6 / np.sqrt(255)


def test_blake2b_is_the_one_of_rfc_7693() -> None:
    assert hashlib.blake2b(b"abc").hexdigest() == (  # appendix A
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )


@pytest.mark.parametrize("secret", [b"", b"a secret", bytes(range(64))])
def test_a_key_is_keyed_blake2b_of_the_rounded_picture_read_as_a_little_endian_word(secret: bytes) -> None:
    images = np.array([[[[0.0], [1.0]], [[0.5], [0.1]]], [[[1 / 255], [0.998]], [[0.0019], [0.0021]]]], np.float32)
    pictures = [bytes([0, 255, 128, 26]), bytes([1, 254, 0, 1])]  # 127.5 rounds to even
    expected = [int.from_bytes(hashlib.blake2b(p, digest_size=8, key=secret).digest(), "little") for p in pictures]
    assert image_keys(images, secret).tolist() == expected
