"""What the operator reads once the service is ready."""

from __future__ import annotations

import dataclasses
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
    assert "console   http://127.0.0.1:3000/ in a browser" in text
    assert text.count("reverse_sigmoid (enforce): beta 1, gamma 0.1") == 1
    assert "curl -s http://127.0.0.1:3000/predict -H 'content-type: application/json' -d @example.json" in text


def test_without_defences_it_says_so_and_without_an_example_it_shows_no_request(bundle: Bundle) -> None:
    classifier: Any = None
    text = banner(bundle, DefendedClassifier(classifier), "http://127.0.0.1:3000")
    assert "  defences  none\n" in text
    assert "curl" not in text


def test_a_defence_of_the_bundle_that_is_off_is_shown_as_off(bundle: Bundle) -> None:
    classifier: Any = None
    declared = [{"name": "strip", "mode": "off"}, {"name": "reverse_sigmoid", "mode": "enforce"}]
    whole = dataclasses.replace(bundle, settings={**bundle.settings, "defences": declared})
    text = banner(whole, DefendedClassifier(classifier, postprocessors=[Step(ReverseSigmoid())]), "http://127.0.0.1:3000")
    assert "  defences  reverse_sigmoid (enforce): beta 1, gamma 0.1\n            strip (off)\n" in text


def test_where_a_key_is_asked_for_the_request_to_try_has_a_place_for_one(bundle: Bundle) -> None:
    classifier: Any = None
    defended, example = DefendedClassifier(classifier), Path("example.json")
    with_key = banner(bundle, defended, "http://127.0.0.1:3000", example=example, asks_for_key=True)
    assert "-H 'authorization: Bearer YOUR-KEY' -d @example.json" in with_key
    assert "Bearer" not in banner(bundle, defended, "http://127.0.0.1:3000", example=example)
