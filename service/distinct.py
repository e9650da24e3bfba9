"""Which images of a request are the same, byte for byte: one compiled pass, in which other threads go on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.classifier import Images


@njit(nogil=True, cache=True)
def _first_equals(words: Any, weights: Any, firsts: Any) -> Any:
    """Write down for each row which is the first that equals it; returns how many differ.

    Rows are compared when their weighted sums are equal. Nobody who does not know the weights can make two rows that differ and have
    equal sums, so that each row is read twice at most.

    Args:
        words: uint32 [n, m]. weights: uint64 [m]. firsts: int64 [n], to write to.
    """
    rows, length = words.shape
    sums = np.empty(rows, np.uint64)
    differ = 0
    for row in range(rows):
        total = np.uint64(0)
        for i in range(length):
            total += np.uint64(words[row, i]) * weights[i]
        sums[row], firsts[row] = total, row
        for before in range(row):
            if sums[before] == total and firsts[before] == before:
                same = True
                for i in range(length):
                    if words[row, i] != words[before, i]:
                        same = False
                        break
                if same:
                    firsts[row] = before
                    break
        differ += firsts[row] == row
    return differ


@lru_cache(maxsize=4)
def _weights(length: int) -> NDArray[np.uint64]:
    return np.random.default_rng().integers(0, 1 << 64, length, np.uint64)


def distinct(images: Images) -> tuple[Images, NDArray[np.int64] | None]:
    """The images without those that were there before, byte for byte, and which of them each one is; None when all differ."""
    if len(images) < 2:
        return images, None
    words = np.ascontiguousarray(images).reshape(len(images), -1).view(np.uint32)
    firsts = np.empty(len(images), np.int64)
    if _first_equals(words, _weights(words.shape[1]), firsts) == len(images):
        return images, None
    kept, which = np.unique(firsts, return_inverse=True)
    return images[kept], which


def warm_up() -> None:
    """Compile the pass, or load it, before the first request."""
    distinct(np.zeros((2, 1, 1, 1), np.float32))
