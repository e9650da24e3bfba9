"""What the operator reads once the service is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Strip
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.bundle import Bundle
from service.lifecycle.banner import banner


def test_it_says_where_what_and_which_defences_with_their_parameters(bundle: Bundle) -> None:
    strip = Strip(overlays=np.zeros((4, 2, 3, 1), np.uint8), threshold=0.25, stages=(2, 4), slack=(0.1, 0.0))
    classifier: Any = None
    defended = DefendedClassifier(
        classifier, detectors=[Step(strip, "monitor")], postprocessors=[Step(ReverseSigmoid()), Step(ReverseSigmoid(), "off")]
    )
    text = banner(bundle, defended, "http://127.0.0.1:3000", example=Path("example.json"))
    assert "insects 0123456789ab at http://127.0.0.1:3000" in text
    assert bundle.digest in text
    assert "strip (monitor): 4 overlays added at weight 1, refuses at 0.25 bits or less" in text
    assert text.count("reverse_sigmoid (enforce): beta 1, gamma 0.1") == 1
    assert "curl -s http://127.0.0.1:3000/predict -H 'content-type: application/json' -d @example.json" in text


def test_without_defences_it_says_so_and_without_an_example_it_shows_no_request(bundle: Bundle) -> None:
    classifier: Any = None
    text = banner(bundle, DefendedClassifier(classifier), "http://127.0.0.1:3000")
    assert "none is on" in text
    assert "curl" not in text
