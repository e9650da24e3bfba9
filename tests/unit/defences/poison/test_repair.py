"""Repair: poison is left out or gets its true label back, and clean samples stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from defences.errors import InvalidInput
from defences.poison.activation_clustering import ActivationClustering
from defences.poison.repair import repaired
from models.datasets import Dataset
from tests.poisoned import features


def test_dropping_leaves_out_what_was_found() -> None:
    seen, truth = features(poison=80)
    found = ActivationClustering().detect(seen)
    data = Dataset(np.zeros((len(truth), 2, 2, 1), np.float32), seen.labels)
    assert len(repaired(data, found)) == found.is_clean.sum()


def test_relabelling_gives_poison_the_class_its_image_shows_and_changes_no_other_label() -> None:
    seen, truth = features(poison=80)
    found = ActivationClustering().detect(seen)
    data = Dataset(np.zeros((len(truth), 2, 2, 1), np.float32), seen.labels)
    better = repaired(data, found, how="relabel", training=seen)
    np.testing.assert_array_equal(better.labels[found.is_clean], seen.labels[found.is_clean])
    assert seen.witness is not None
    shown = seen.witness(np.arange(len(truth)))[:, :4].argmax(axis=1)
    assert (better.labels == shown)[~truth].mean() > 0.95


def test_clean_findings_change_nothing() -> None:
    seen, truth = features()
    found = ActivationClustering().detect(seen)
    data = Dataset(np.zeros((len(truth), 2, 2, 1), np.float32), seen.labels)
    np.testing.assert_array_equal(repaired(data, found, how="relabel", training=seen).labels, seen.labels)


def test_findings_of_other_data_and_relabelling_blindly_are_refused() -> None:
    seen, truth = features(poison=80)
    found = ActivationClustering().detect(seen)
    data = Dataset(np.zeros((len(truth), 2, 2, 1), np.float32), seen.labels)
    with pytest.raises(InvalidInput, match="findings about"):
        repaired(data.take(slice(0, 10)), found)
    with pytest.raises(InvalidInput, match="training set"):
        repaired(data, found, how="relabel")
