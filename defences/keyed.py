"""Randomness with a key instead of a state.

A per-image key is BLAKE2b(secret, image rounded to uint8) (RFC 7693), 64 bits of it. The same image gets the same answer on every
replica that shares the secret, so that retries cannot average the noise away and an audit can replay a decision. An attacker without
the secret does not know which pixels are dropped or which overlays come first. But one pixel changed by 1/255 makes another image with
another key: a decision has to hold under as many keys as an attacker has tries (`docs/decisions/0014-early-exits.md`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from defences.splitmix64 import splitmix64
from models.classifier import Images

Keys = NDArray[np.uint64]
"""uint64 [n], one per image."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def image_keys(images: Images, secret: bytes) -> Keys:
    """One 64-bit key per image [n, h, w, c]; images that round to the same uint8 picture share theirs.

    Args:
        images: float32 [n, h, w, c] in [0, 1].
        secret: at most 64 bytes (the limit of keyed BLAKE2b).
    """
    rounded = np.rint(images * np.float32(255)).astype(np.uint8)
    digests = (hashlib.blake2b(picture.tobytes(), digest_size=8, key=secret).digest() for picture in rounded)
    return np.frombuffer(bytearray(b"".join(digests)), dtype=np.uint64)  # writable: one compiled signature, not two


def random_keys(count: int, rng: np.random.Generator) -> Keys:
    """Random keys, distributed like those of images under an unknown secret."""
    return rng.integers(0, 2**64, count, dtype=np.uint64)


@njit(nogil=True, cache=True)
def keyed_permutations(keys: Any, size: int) -> Any:
    """For every key an own, uniformly drawn order of range(size): int32 [n, size] (Fisher-Yates on SplitMix64)."""
    orders = np.empty((keys.size, size), np.int32)
    for row in range(keys.size):
        order = orders[row]
        for i in range(size):
            order[i] = i
        for i in range(size - 1, 0, -1):
            word = splitmix64(keys[row] + np.uint64(i) * _GOLDEN)
            j = np.int64(word % np.uint64(i + 1))  # the bias is below size / 2**64
            order[i], order[j] = order[j], order[i]
    return orders
