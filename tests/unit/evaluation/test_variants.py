"""Variants of a classifier that was defended in Python."""

from __future__ import annotations

from typing import Any

import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from evaluation.variants import FULL_STACK, UNDEFENDED, defended_target
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput


def test_each_defence_stands_alone_and_enforces_and_the_full_stack_keeps_its_modes(keras_model: Any) -> None:
    defended = DefendedClassifier(
        KerasClassifier(keras_model),
        preprocessors=[Step(TotalVariation(weight=0.1), "monitor")],
        postprocessors=[Step(ReverseSigmoid())],
    )
    target = defended_target(defended, defended.classifier, secret=b"key")
    assert list(target.variants) == [UNDEFENDED, "total_variation", "reverse_sigmoid", FULL_STACK]
    assert target.modes == {"total_variation": "monitor", "reverse_sigmoid": "enforce"}
    assert target.variants["total_variation"].preprocessors[0].mode == "enforce"
    assert target.variants["total_variation"].postprocessors == ()
    assert target.full_stack.preprocessors == defended.preprocessors
    assert len(target.blurs(FULL_STACK)) == 1
    assert target.digest != defended_target(defended, defended.classifier, secret=b"key").digest


def test_defences_around_a_defended_classifier_are_refused(keras_model: Any) -> None:
    nested = DefendedClassifier(DefendedClassifier(KerasClassifier(keras_model)))
    with pytest.raises(InvalidInput, match="expected defences around a classifier to evaluate, got ones around another"):
        defended_target(nested, nested.classifier, secret=b"")
