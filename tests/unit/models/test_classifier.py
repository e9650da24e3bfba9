"""The classifier protocol that every layer shares."""

from __future__ import annotations

from models.classifier import Classifier
from tests.fakes import linear


def test_whoever_has_shape_labels_and_predict_is_a_classifier() -> None:
    assert isinstance(linear((2, 2, 1), 3), Classifier)
    assert not isinstance(object(), Classifier)
