"""Gradients that vanish are named wherever a gradient attack is used: in attacks and in the training of detectors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attacks.detector_training.evasion_training import EvasionTraining
from attacks.evasion.vanished import vanished_gradients
from defences.calibration.split import CalibrationSplit, Terms
from evaluation.red_team.campaign import ATTACKS, Campaign
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, linear_with_gradients, noise

SHAPE = (8, 8, 1)
DATA = Dataset(noise(40, SHAPE, 0), np.arange(40) % 3)
FLAT = LinearClassifier(np.zeros((64, 3)), np.zeros(3), SHAPE)


def test_a_classifier_with_gradients_is_fine_and_one_without_is_named_with_the_share() -> None:
    assert vanished_gradients(linear_with_gradients(SHAPE, 3), DATA.images, DATA.labels) is None
    assert "is zero on 100.0 % of 40 images" in str(vanished_gradients(FLAT, DATA.images, DATA.labels))


def test_a_detector_is_not_trained_on_attacks_that_moved_nothing() -> None:
    with pytest.raises(InvalidInput, match=r"expected attacks to learn from, got none: .* is zero on 100\.0 %"):
        EvasionTraining().fit_input_detector(FLAT, CalibrationSplit(DATA, DATA), Terms(rate=0.1))


def test_a_stolen_copy_without_gradients_is_no_evidence_for_the_gateway() -> None:
    gateway: Any = SimpleNamespace(traffic=None, ended=None, labels=FLAT.labels)
    campaign = Campaign(gateway=gateway, attacked=DATA, others=DATA, eps=0.3, seed=0, queries=100)
    campaign.stolen = SimpleNamespace(clone=FLAT)  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="the stolen copy cannot be attacked: the gradient of the loss is zero"):
        ATTACKS["transfer"].craft(campaign, 60)
