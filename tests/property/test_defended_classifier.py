"""Laws of a classifier behind any stack of defences."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Classifier, Images
from tests.fakes import Shape, linear
from tests.property.strategies import cut, defended, images, seeds, shuffled, strip

SHAPE: Shape = (5, 7, 3)


def assert_same(found: Decisions, expected: Decisions) -> None:
    np.testing.assert_array_equal(found.abstained, expected.abstained)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found.trace.purification_distance, expected.trace.purification_distance, atol=1e-4)
    for one, other in zip(found.trace.detections, expected.trace.detections, strict=True):
        np.testing.assert_array_equal(one.abstained, other.abstained)
        np.testing.assert_array_equal(one.calls, other.calls)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def rows_of(decisions: Decisions, order: NDArray[np.int64]) -> Decisions:
    trace = decisions.trace
    distance = trace.purification_distance[order] if trace.purification_distance.size else trace.purification_distance
    detections = tuple(detection.take(order) for detection in trace.detections)
    return Decisions(
        decisions.probabilities[order],
        decisions.abstained[order],
        decisions.labels[order],
        type(trace)(trace.seconds, trace.model_calls, distance, detections),
    )


@given(stack=defended(), pictures=images(SHAPE))
def test_a_row_is_answered_with_its_label_or_refused_with_zeros(stack: DefendedClassifier, pictures: Images) -> None:
    found = stack.classify(pictures)
    n = len(pictures)
    assert found.probabilities.shape == (n, 4)
    assert found.probabilities.dtype == np.float32
    assert found.labels.dtype == np.int64
    np.testing.assert_allclose(found.probabilities.sum(axis=1), np.where(found.abstained, 0, 1), atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.where(found.abstained, -1, found.probabilities.argmax(axis=1)))


@given(data=st.data(), stack=defended(), pictures=images(SHAPE))
def test_what_an_image_gets_does_not_depend_on_its_batch_mates(
    data: st.DataObject, stack: DefendedClassifier, pictures: Images
) -> None:
    together = stack.classify(pictures)
    order = shuffled(len(pictures), data.draw(seeds))
    assert_same(stack.classify(pictures[order]), rows_of(together, order))
    at = data.draw(cut(len(pictures)))
    for part in (slice(0, at), slice(at, None)):
        rows = np.arange(len(pictures))[part]
        alone = stack.classify(pictures[part])
        if len(rows):
            assert_same(alone, rows_of(together, rows))


@given(data=st.data(), stack=defended(), pictures=images(SHAPE))
def test_who_joins_a_batch_at_work_gets_what_it_gets_alone_and_so_does_who_was_there(
    data: st.DataObject, stack: DefendedClassifier, pictures: Images
) -> None:
    together = stack.classify(pictures)
    joins = sorted(data.draw(st.lists(cut(len(pictures)), max_size=3)))
    parts = [part for part in np.split(pictures, joins) if len(part)]
    batch = stack.begin(parts.pop(0))
    seen: list[int] = []
    while batch.pending or parts:
        if parts and (not batch.pending or data.draw(st.booleans())):
            stack.join(batch, parts.pop(0))
        wave = stack.advance(batch)
        if wave is not None:
            numbers, decisions = wave
            assert_same(decisions, rows_of(together, numbers))
            seen += numbers.tolist()
    assert sorted(seen) == list(range(len(pictures)))


@given(data=st.data(), stack=defended(), pictures=images(SHAPE))
def test_whose_turn_comes_when_changes_no_answer_and_a_turn_costs_what_was_said(
    data: st.DataObject, stack: DefendedClassifier, pictures: Images
) -> None:
    together = stack.classify(pictures)
    at = data.draw(cut(len(pictures)))
    batch = stack.begin(pictures[:at])
    stack.join(batch, pictures[at:])
    stack.advance(batch, np.empty(0, np.int64))  # whoever has just joined takes part
    seen, total = set(range(len(pictures))) - set(stack.costs(batch)[0].tolist()), 0
    while batch.pending:
        numbers, calls = stack.costs(batch)
        assert not seen & set(numbers.tolist())
        chosen = shuffled(len(numbers), data.draw(seeds))[: data.draw(st.integers(1, len(numbers)))]
        total += int(calls[chosen].sum())
        wave = stack.advance(batch, numbers[chosen])
        if wave is not None:
            assert_same(wave[1], rows_of(together, wave[0]))
            assert set(wave[0].tolist()) <= set(numbers[chosen].tolist())
            seen |= set(wave[0].tolist())
    assert seen == set(range(len(pictures)))
    assert total <= together.trace.model_calls


@given(stack=defended(), pictures=images(SHAPE))
def test_waves_decide_every_image_once_and_as_classify_does(stack: DefendedClassifier, pictures: Images) -> None:
    together = stack.classify(pictures)
    seen: list[int] = []
    calls = 0
    for rows, decisions in stack.waves(pictures):
        assert rows.size
        assert_same(decisions, rows_of(together, rows))
        seen += rows.tolist()
        calls += decisions.trace.model_calls
    assert sorted(seen) == list(range(len(pictures)))
    assert calls == together.trace.model_calls <= len(pictures) * stack.calls_at_most


@given(stack=defended(), pictures=images(SHAPE))
def test_the_given_images_stay_as_they_are(stack: DefendedClassifier, pictures: Images) -> None:
    writable = pictures.copy()
    stack.classify(writable)
    np.testing.assert_array_equal(writable, pictures)


@given(stack=defended(), pictures=images(SHAPE))
def test_a_defended_classifier_is_a_classifier_and_can_be_defended_again(stack: DefendedClassifier, pictures: Images) -> None:
    assert isinstance(stack, Classifier)
    outer = DefendedClassifier(stack, secret=b"outer")
    np.testing.assert_array_equal(outer.predict(pictures), stack.predict(pictures))


@given(stack=defended())
def test_an_empty_batch_gets_empty_decisions(stack: DefendedClassifier) -> None:
    found = stack.classify(np.empty((0, *SHAPE), np.float32))
    assert found.probabilities.shape == (0, 4)
    assert found.probabilities.dtype == np.float32
    assert len(found.labels) == len(found.abstained) == 0
    assert found.trace.model_calls == 0


@given(pictures=images(SHAPE))
def test_a_batch_may_be_refused_altogether(pictures: Images) -> None:
    stack = DefendedClassifier(
        linear(SHAPE, 4), detectors=[Step(strip(SHAPE, threshold=10.0))], postprocessors=[Step(ReverseSigmoid())]
    )
    found = stack.classify(pictures)
    assert found.abstained.all()
    np.testing.assert_array_equal(found.probabilities, np.zeros((len(pictures), 4)))
    np.testing.assert_array_equal(found.labels, -1)


@given(pictures=images(SHAPE), secrets=st.lists(st.binary(min_size=1, max_size=64), min_size=2, max_size=2, unique=True))
def test_the_secret_decides_the_keys(pictures: Images, secrets: list[bytes]) -> None:
    one, other = (DefendedClassifier(linear(SHAPE, 4), secret=secret).keys(pictures) for secret in secrets)
    assert (one != other).all()
