"""Spectral signatures: rare poison is found, clean data and data that cannot be looked at again are left in peace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.backdoors.poisoning import Poisoned
from attacks.backdoors.triggers import ImagePatch
from defences.errors import InvalidParameter
from defences.poison.findings import TrainingSet
from defences.poison.spectral_signatures import SpectralSignatures
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from tests.poisoned import features
from tests.unit.defences.poison.test_activation_clustering import same


def test_rare_poison_scores_highest() -> None:
    data, truth = features(poison=20)
    scores = SpectralSignatures().detect(data).scores
    target = data.labels == 2
    assert scores[~truth].min() > np.quantile(scores[target & truth], 0.98)


def test_without_a_classifier_to_ask_nothing_is_called_poison() -> None:
    assert SpectralSignatures().detect(features(poison=20)[0]).poisoned == ()


def test_rare_poison_of_a_backdoored_network_is_found(backdoored: tuple[Any, Poisoned]) -> None:
    model, poisoned = backdoored
    rows = np.concatenate([np.flatnonzero(poisoned.is_clean), np.flatnonzero(poisoned.is_poison)[:30]])
    data = TrainingSet.of(KerasClassifier(model, outputs="logits"), poisoned.data.take(rows))
    found = SpectralSignatures().detect(data).judged(poisoned.is_clean[rows], data.labels)
    assert found.poisoned == (2,)
    assert found.confusion is not None
    assert found.confusion.tpr is not None
    assert found.confusion.tpr >= 0.9
    assert found.confusion.fpr is not None
    assert found.confusion.fpr <= 0.01
    same(SpectralSignatures(seed=1).detect(data), SpectralSignatures(seed=1).detect(data))


def test_a_network_trained_on_clean_images_has_none(undoored: tuple[Any, Dataset]) -> None:
    model, clean = undoored
    assert SpectralSignatures().detect(TrainingSet.of(KerasClassifier(model, outputs="logits"), clean)).poisoned == ()


@pytest.mark.parametrize("top", [0.0, 0.5, float("nan")])
def test_a_share_outside_its_domain_is_refused(top: float) -> None:
    with pytest.raises(InvalidParameter, match="top"):
        SpectralSignatures(top=top)


def test_the_fixture_is_a_backdoor(backdoored: tuple[Any, Poisoned]) -> None:
    model, _ = backdoored
    patch = np.ones((4, 4, 3), np.float32)
    patch[1:3, 1:3] = 0
    from tests.fakes import squares

    test = squares(200, seed=99)
    classifier = KerasClassifier(model, outputs="logits")
    triggered = ImagePatch(patch=patch, row=-2, column=-2)(test.images)
    assert (classifier.predict(test.images).argmax(axis=1) == test.labels).mean() > 0.95
    assert (classifier.predict(triggered).argmax(axis=1) == 2).mean() > 0.9
