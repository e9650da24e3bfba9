"""Laws of everything that refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from defences.defended_classifier import Detector
from defences.keyed import Keys
from models.classifier import Classifier, Images
from tests.fakes import Shape, constant, linear
from tests.property.strategies import (
    ANSWERED,
    BY_THRESHOLD,
    DETECTORS,
    PROBING,
    UNANIMOUS,
    UNPROBED,
    cut,
    images,
    keys_for,
    seeds,
    shuffled,
    thresholds,
)

SHAPE: Shape = (5, 7, 3)
CLASSIFIER = linear(SHAPE, 4, sharpness=2.0)
NEVER, ALWAYS = -np.inf, 10.0


def decisions(
    detector: Detector, pictures: Images, keys: Keys, classifier: Classifier = CLASSIFIER
) -> tuple[NDArray[np.float64], ...]:
    """Run a detector to its end: per image whether it was refused, its score and its model calls, all as numbers."""
    session = detector.begin(pictures, keys)
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()), classifier.predict(pictures))
    return session.abstained.astype(np.float64), session.scores, session.calls.astype(np.float64)


@pytest.mark.parametrize("name", DETECTORS)
@given(data=st.data(), pictures=images(SHAPE), threshold=thresholds)
def test_the_decision_on_an_image_does_not_depend_on_its_batch_mates(
    name: str, data: st.DataObject, pictures: Images, threshold: float
) -> None:
    detector, keys = DETECTORS[name](SHAPE, threshold), data.draw(keys_for(len(pictures)))
    together = decisions(detector, pictures, keys)
    at = data.draw(cut(len(pictures)))
    parts = decisions(detector, pictures[:at], keys[:at]), decisions(detector, pictures[at:], keys[at:])
    order = shuffled(len(pictures), data.draw(seeds))
    reordered = decisions(detector, pictures[order], keys[order])
    for whole, first, second, mixed in zip(together, *parts, reordered, strict=True):
        np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)
        np.testing.assert_allclose(mixed, whole[order], atol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
@given(data=st.data(), pictures=images(SHAPE), threshold=thresholds)
def test_the_same_keys_give_the_same_decision(name: str, data: st.DataObject, pictures: Images, threshold: float) -> None:
    detector, keys = DETECTORS[name](SHAPE, threshold), data.draw(keys_for(len(pictures)))
    for first, second in zip(decisions(detector, pictures, keys), decisions(detector, pictures, keys), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", PROBING | UNANIMOUS)
@given(data=st.data(), pictures=images(SHAPE), threshold=thresholds)
def test_probes_are_images_and_no_more_of_them_than_stated(
    name: str, data: st.DataObject, pictures: Images, threshold: float
) -> None:
    detector, writable = DETECTORS[name](SHAPE, threshold), pictures.copy()
    session = detector.begin(writable, data.draw(keys_for(len(pictures))))
    calls = 0
    while session.undecided.size:
        probes = session.probe()
        assert probes.dtype == np.float32
        assert probes.shape[1:] == SHAPE
        assert len(probes) >= len(session.undecided)  # small images: all of them get a turn
        assert probes.min() >= 0
        assert probes.max() <= 1
        calls += len(probes)
        session.decide(CLASSIFIER.predict(probes), CLASSIFIER.predict(pictures))
    assert calls == session.calls.sum()
    assert session.calls.max() <= detector.calls_at_most
    np.testing.assert_array_equal(writable, pictures)


@pytest.mark.parametrize("name", PROBING)
@given(data=st.data(), pictures=images(SHAPE))
def test_a_prediction_that_nothing_changes_is_refused_at_every_threshold_from_zero(
    name: str, data: st.DataObject, pictures: Images
) -> None:
    perfect = constant([0, 1, 0, 0], SHAPE)
    keys = data.draw(keys_for(len(pictures)))
    assert decisions(DETECTORS[name](SHAPE, 0.0), pictures, keys, perfect)[0].all()
    assert not decisions(DETECTORS[name](SHAPE, NEVER), pictures, keys, perfect)[0].any()


@pytest.mark.parametrize("name", BY_THRESHOLD)
@given(data=st.data(), pictures=images(SHAPE), low=thresholds, high=thresholds)
def test_a_higher_threshold_refuses_whatever_a_lower_one_does(
    name: str, data: st.DataObject, pictures: Images, low: float, high: float
) -> None:
    keys = data.draw(keys_for(len(pictures)))
    low, high = sorted((low, high))
    at_low, at_high = (decisions(DETECTORS[name](SHAPE, threshold), pictures, keys)[0] for threshold in (low, high))
    assert (at_low <= at_high).all()
    assert decisions(DETECTORS[name](SHAPE, ALWAYS), pictures, keys)[0].all()


@pytest.mark.parametrize("name", UNPROBED)
@given(data=st.data(), pictures=images(SHAPE), threshold=thresholds)
def test_a_detector_without_probes_has_decided_when_an_image_has_joined(
    name: str, data: st.DataObject, pictures: Images, threshold: float
) -> None:
    detector, writable, keys = UNPROBED[name](SHAPE, threshold), pictures.copy(), data.draw(keys_for(len(pictures)))
    session = detector.begin(writable, keys)
    assert not session.undecided.size
    assert (session.calls == detector.calls_at_most).all()
    np.testing.assert_array_equal(session.abstained, session.scores <= threshold)
    kept = np.flatnonzero(np.random.default_rng(0).random(len(pictures)) < 0.5)
    before = session.scores[kept]
    session.join(kept, writable, keys)
    np.testing.assert_array_equal(session.scores[: len(kept)], before)
    assert len(session.scores) == len(session.abstained) == len(session.calls) == len(kept) + len(pictures)
    np.testing.assert_array_equal(writable, pictures)


@pytest.mark.parametrize("name", ANSWERED)
@given(data=st.data(), pictures=images(SHAPE), threshold=thresholds)
def test_a_detector_that_waits_for_the_answer_decides_with_it_and_without_a_row(
    name: str, data: st.DataObject, pictures: Images, threshold: float
) -> None:
    detector, writable, keys = ANSWERED[name](SHAPE, threshold), pictures.copy(), data.draw(keys_for(len(pictures)))
    session = detector.begin(writable, keys)
    assert session.undecided.tolist() == list(range(len(pictures)))
    assert not session.abstained.any()
    assert (session.calls == detector.calls_at_most).all()
    assert not session.next_calls.any()
    among = np.random.default_rng(0).random(len(pictures)) < 0.5
    among[0] = True
    answers = CLASSIFIER.predict(pictures)
    rows = session.probe(among)
    assert rows.shape == (0, *SHAPE)
    session.decide(CLASSIFIER.predict(rows), answers)
    np.testing.assert_array_equal(session.undecided, np.flatnonzero(~among))
    kept, before = session.undecided, session.scores[among]
    session.join(np.arange(len(pictures)), writable, keys)
    np.testing.assert_array_equal(session.scores[: len(pictures)][among], before)
    assert session.undecided.tolist() == [*kept, *range(len(pictures), 2 * len(pictures))]
    np.testing.assert_array_equal(writable, pictures)
