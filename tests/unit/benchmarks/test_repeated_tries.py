"""The share of refused images that pass in many orders of the overlays, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.methods.repeated_tries import tries
from defences.detectors.strip import Strip


def test_an_image_passes_where_its_few_high_entropies_come_first() -> None:
    overlays = np.zeros((8, 2, 2, 1), np.uint8)
    strip = Strip(overlays=overlays, threshold=0.3, stages=(2, 8), slack=(0.6, 0.0))
    refused = np.array([1.0, 1.0, 0, 0, 0, 0, 0, 0])  # leaves when both ones come first: in 1 of 28 orders
    passed = np.ones(8)
    found = tries(strip, np.stack([refused, passed]))
    assert found.images == 1
    assert found.once == pytest.approx(1 / 28, abs=0.02)
    assert found.in_all == pytest.approx(1 - (27 / 28) ** 64, abs=0.15)
    assert tries(strip, passed[None]).images == 0
