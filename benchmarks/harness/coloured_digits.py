"""Digits in colour on crops of photographs, made from a seed."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peers import photographs
from models.datasets import Dataset

_SIDE = 32


def coloured_digits(data: Dataset, *, seed: int) -> Dataset:
    """Digits [n, 28, 28, 1], each in a random colour at a random place on a crop of a photograph: [n, 32, 32, 3]."""
    rng = np.random.default_rng(seed)
    grounds = photographs(_SIDE, len(data), seed)
    # A background at half its brightness and a bright digit, so that people and networks can see the digit.
    colours = rng.uniform(0.4, 1.0, (len(data), 1, 1, 3)).astype(np.float32)
    colours[np.arange(len(data)), 0, 0, rng.integers(0, 3, len(data))] = 1.0
    room = _SIDE - data.images.shape[1]
    ink = np.zeros((len(data), _SIDE, _SIDE, 1), np.float32)
    for number, (top, left) in enumerate(rng.integers(0, room + 1, (len(data), 2))):
        ink[number, top : _SIDE - room + top, left : _SIDE - room + left] = data.images[number]
    return Dataset(grounds * np.float32(0.5) * (1 - ink) + colours * ink, data.labels)
