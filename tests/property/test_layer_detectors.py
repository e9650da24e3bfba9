"""Laws of detectors that look at layers: what they decide hangs on an image alone, whenever it joins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defences.defended_classifier import DefendedClassifier, Step
from models.classifier import Images
from tests.fakes import Shape, layered
from tests.property.strategies import LOOKING, images, seeds, shuffled, strip, thresholds

SHAPE: Shape = (5, 7, 3)


@pytest.mark.parametrize("name", LOOKING)
@given(pictures=images(SHAPE), seed=seeds)
def test_the_score_of_an_image_does_not_depend_on_its_batch_mates(name: str, pictures: Images, seed: int) -> None:
    detector, classifier = LOOKING[name](SHAPE, 0.0), layered(SHAPE, 4)
    outputs = classifier.layered(detector.layers)(pictures)
    answers = outputs.probabilities
    together, order = detector.scores(outputs.features, answers), shuffled(len(pictures), seed)
    np.testing.assert_array_equal(detector.scores(outputs.features[order], answers[order]), together[order])
    alone = [detector.scores(outputs.features[at : at + 1], answers[at : at + 1])[0] for at in range(len(pictures))]
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("name", LOOKING)
@given(data=st.data(), pictures=images(SHAPE, most=12), threshold=thresholds)
def test_images_that_join_later_are_decided_as_those_that_come_together(
    name: str, data: st.DataObject, pictures: Images, threshold: float
) -> None:
    steps: list[Step[Any]] = [Step(LOOKING[name](SHAPE, -threshold)), Step(strip(SHAPE, threshold))]
    defended = DefendedClassifier(layered(SHAPE, 4), detectors=steps)
    whole = defended.classify(pictures)
    batch, waves, begun = defended.begin(pictures[:1]), [], 1
    while batch.pending or begun < len(pictures):
        if begun < len(pictures) and (not batch.pending or data.draw(st.booleans())):
            defended.join(batch, pictures[begun : begun + 2])
            begun = min(begun + 2, len(pictures))
        turn = None if data.draw(st.booleans()) else defended.costs(batch)[0][:1]
        waves.append(defended.advance(batch, turn))
    told = [wave for wave in waves if wave is not None]
    assert sorted(np.concatenate([numbers for numbers, _ in told]).tolist()) == list(range(len(pictures)))
    for numbers, decisions in told:
        np.testing.assert_array_equal(decisions.labels, whole.labels[numbers])
        np.testing.assert_array_equal(decisions.trace.detections[0].scores, whole.trace.detections[0].scores[numbers])
        np.testing.assert_array_equal(decisions.trace.detections[0].abstained, whole.trace.detections[0].abstained[numbers])
