"""How long a call takes: the best of a few batches, and no longer than it may."""

from __future__ import annotations

import numpy as np
import pytest

from models.classifier import Images, Probabilities
from models.speed import rows_to_time, seconds_per_call


class Timed:
    """A classifier whose calls take what it is told, by a clock of its own; the first, which compiles, ten seconds more."""

    labels = ("a", "b")

    def __init__(self, call_s: float, side: int = 8) -> None:
        self.call_s, self.now, self.calls = call_s, 0.0, 0
        self.input_shape = (side, side, 3)

    def predict(self, images: Images) -> Probabilities:
        self.now += len(images) * self.call_s + (10.0 if not self.calls else 0.0)
        self.calls += 1
        return np.full((len(images), 2), 0.5, np.float32)


def test_the_call_that_compiles_is_not_counted() -> None:
    classifier = Timed(0.001)
    assert seconds_per_call(classifier, clock=lambda: classifier.now, within_s=60) == pytest.approx(0.001)
    assert classifier.calls == 4


def test_a_slow_classifier_is_not_timed_for_long() -> None:
    classifier = Timed(5.0, side=224)
    assert seconds_per_call(classifier, clock=lambda: classifier.now, within_s=2) == pytest.approx(5.0 + 10 / 6)
    assert classifier.calls == 1


def test_large_images_are_timed_by_fewer_rows() -> None:
    assert rows_to_time((28, 28, 1)) == 64
    assert rows_to_time((28, 28, 1), at_most=8) == 8
    assert rows_to_time((224, 224, 3)) == 6
    assert rows_to_time((8192, 8192, 1)) == 1
