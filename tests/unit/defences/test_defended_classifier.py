"""The data path, stage by stage, with fakes in every place."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Strip
from defences.errors import InvalidInput, StageFailure
from defences.keyed import Keys
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images, Probabilities
from tests.fakes import FakeClassifier, constant, linear, noise

SHAPE = (4, 5, 1)
IMAGES = noise(10, SHAPE, 0)


def strip(threshold: float, seed: int = 1) -> Strip:
    overlays = np.rint(noise(8, SHAPE, seed) * 255).astype(np.uint8)
    return Strip(overlays=overlays, threshold=threshold, stages=(2, 4, 8), slack=(0.0, 0.0, 0.0))


@dataclass
class Darken:
    """A preprocessor that halves images."""

    name: str = "darken"

    def __call__(self, images: Images, keys: Keys) -> Images:
        return images / np.float32(2)


@dataclass
class Recorder:
    """A postprocessor that remembers the rows it was given and swaps the first two classes' columns."""

    name: str = "recorder"
    rows: list[Probabilities] = field(default_factory=list)

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        self.rows.append(probabilities)
        return probabilities[:, ::-1]


@dataclass
class Broken:
    """Raises wherever it is put."""

    name: str = "broken"
    calls_at_most: int = 1

    def __call__(self, *given: object) -> Images:
        raise RuntimeError("broken")

    def begin(self, images: Images, keys: Keys) -> object:
        raise RuntimeError("broken")


def test_preprocessors_fold_in_order_and_the_classifier_sees_what_they_made() -> None:
    seen: list[Images] = []

    def answer(images: Images) -> Probabilities:
        seen.append(images)
        return np.full((len(images), 2), 0.5, np.float32)

    steps = [Step(Darken()), Step(Darken(), "monitor"), Step(Darken())]
    found = DefendedClassifier(FakeClassifier(answer, SHAPE, 2), preprocessors=steps).classify(IMAGES)
    np.testing.assert_allclose(seen[0], IMAGES / 4)
    np.testing.assert_allclose(
        found.trace.purification_distance, np.linalg.norm((IMAGES * 0.75).reshape(10, -1), axis=1), rtol=1e-5
    )


def test_a_detector_sees_the_images_as_they_came() -> None:
    overlays = np.zeros((2, *SHAPE), np.uint8)
    detector = Strip(overlays=overlays, threshold=9.0, stages=(2,), slack=(0.0,))
    seen: list[Images] = []

    def answer(images: Images) -> Probabilities:
        seen.append(images)
        return np.full((len(images), 2), 0.5, np.float32)

    classifier = FakeClassifier(answer, SHAPE, 2)
    DefendedClassifier(classifier, preprocessors=[Step(Darken())], detectors=[Step(detector)]).classify(IMAGES)
    np.testing.assert_allclose(seen[0][:10], IMAGES / 2)
    np.testing.assert_allclose(seen[0][10:], np.repeat(IMAGES, 2, axis=0))


def test_first_probes_of_every_detector_ride_in_the_forward_call_of_the_images() -> None:
    classifier = constant([1, 0], SHAPE)
    stack = DefendedClassifier(classifier, detectors=[Step(strip(0.1)), Step(strip(0.1, seed=2), "monitor")])
    found = stack.classify(IMAGES)
    assert classifier.calls == [10 + 20 + 20, 20 + 20, 40 + 40]
    assert found.trace.model_calls == sum(classifier.calls) == 10 * stack.calls_at_most
    assert stack.calls_at_most == 17


def test_an_image_decided_early_does_not_wait_for_its_neighbours() -> None:
    def answer(images: Images) -> Probabilities:
        sure = images[:, 0, 0, 0] >= 1
        return np.where(sure[:, None], [1.0, 0.0], [0.5, 0.5]).astype(np.float32)

    images = noise(4, SHAPE, 3) * np.float32(0.4)
    images[2, 0, 0, 0] = 1.0
    classifier = FakeClassifier(answer, SHAPE, 2)
    detector = Strip(overlays=np.zeros((8, *SHAPE), np.uint8), threshold=0.2, stages=(2, 8), slack=(0.0, 0.0))
    waves = DefendedClassifier(classifier, detectors=[Step(detector)]).waves(images)
    rows, decisions = next(waves)
    assert rows.tolist() == [0, 1, 3]
    assert not decisions.abstained.any()
    assert classifier.calls == [4 + 8]
    [(rows, decisions)] = list(waves)
    assert rows.tolist() == [2]
    assert decisions.abstained.tolist() == [True]
    assert classifier.calls == [12, 6]


def test_only_answered_rows_are_obscured_and_labels_are_those_of_the_raw_answer() -> None:
    recorder = Recorder()
    classifier = linear(SHAPE, 3, sharpness=2.0)
    stack = DefendedClassifier(classifier, detectors=[Step(strip(0.6))], postprocessors=[Step(recorder)])
    found = stack.classify(IMAGES)
    assert 0 < found.abstained.sum() < 10
    assert sum(map(len, recorder.rows)) == (~found.abstained).sum()
    raw = classifier.predict(IMAGES)
    np.testing.assert_allclose(found.probabilities[~found.abstained], raw[~found.abstained][:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(found.labels, np.where(found.abstained, -1, raw.argmax(axis=1)))


def test_a_postprocessor_that_only_monitors_is_computed_and_changes_nothing() -> None:
    recorder, classifier = Recorder(), linear(SHAPE, 3)
    found = DefendedClassifier(classifier, postprocessors=[Step(recorder, "monitor")]).classify(IMAGES)
    assert len(recorder.rows) == 1
    np.testing.assert_array_equal(found.probabilities, classifier.predict(IMAGES))


def test_a_detector_that_only_monitors_reports_and_answers() -> None:
    found = DefendedClassifier(constant([1, 0], SHAPE), detectors=[Step(strip(0.1), "monitor")]).classify(IMAGES)
    assert not found.abstained.any()
    [detection] = found.trace.detections
    assert detection.abstained.all()
    assert (detection.name, detection.mode) == ("strip", "monitor")
    assert detection.calls.tolist() == [8] * 10
    assert detection.scores.tolist() == [0.0] * 10


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_failing_defence_fails_the_request_and_names_the_stage(mode: str) -> None:
    step = Step(Broken(), mode)  # type: ignore[arg-type]
    classifier = linear(SHAPE, 3)
    stacks = {
        "purify": DefendedClassifier(classifier, preprocessors=[step]),  # type: ignore[list-item]
        "abstain": DefendedClassifier(classifier, detectors=[step]),  # type: ignore[list-item]
        "obscure": DefendedClassifier(classifier, postprocessors=[step]),  # type: ignore[list-item]
    }
    for stage, stack in stacks.items():
        with pytest.raises(StageFailure, match=f"stage {stage} failed") as failure:
            stack.classify(IMAGES)
        assert failure.value.stage == stage
        assert isinstance(failure.value.__cause__, RuntimeError)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_classifier_that_answers_no_numbers_fails_closed(bad: float) -> None:
    with pytest.raises(StageFailure, match="predict"):
        DefendedClassifier(constant([bad, 0], SHAPE), detectors=[Step(strip(0.1))]).classify(IMAGES)


def test_a_classifier_that_answers_another_number_of_rows_fails_closed() -> None:
    short = FakeClassifier(lambda images: np.full((len(images) - 1, 2), 0.5, np.float32), SHAPE, 2)
    with pytest.raises(StageFailure, match="predict"):
        DefendedClassifier(short).classify(IMAGES)


@pytest.mark.parametrize("shape", [(4, 5, 1), (2, 5, 4, 1), (2, 4, 5, 3), (2, 4, 5)])
def test_images_of_another_shape_are_refused_before_any_stage(shape: tuple[int, ...]) -> None:
    classifier = linear(SHAPE, 3)
    with pytest.raises(InvalidInput, match=r"expected images \[n, 4, 5, 1\], got"):
        DefendedClassifier(classifier).classify(np.zeros(shape, np.float32))
    assert not classifier.calls


def test_the_time_of_every_stage_is_told() -> None:
    stack = DefendedClassifier(
        linear(SHAPE, 3),
        preprocessors=[Step(TotalVariation(weight=0.1))],
        detectors=[Step(strip(0.5))],
        postprocessors=[Step(ReverseSigmoid())],
    )
    seconds = stack.classify(IMAGES).trace.seconds
    assert set(seconds) == {"purify", "predict", "abstain", "obscure"}
    assert all(spent >= 0 for spent in seconds.values())


def test_the_times_are_the_sums_of_intervals_that_follow_each_other() -> None:
    stack = DefendedClassifier(linear(SHAPE, 3), detectors=[Step(strip(0.5))], postprocessors=[Step(ReverseSigmoid())])
    trace = stack.classify(IMAGES).trace
    assert [interval.stage for interval in trace.intervals[:3]] == ["purify", "abstain", "abstain"]
    for one, following in itertools.pairwise(trace.intervals):
        assert one.started <= one.ended <= following.started
    for stage, seconds in trace.seconds.items():
        assert seconds == pytest.approx(sum(i.ended - i.started for i in trace.intervals if i.stage == stage))


def test_a_part_of_a_trace_is_about_those_images_only() -> None:
    stack = DefendedClassifier(linear(SHAPE, 3), preprocessors=[Step(TotalVariation(weight=0.1))], detectors=[Step(strip(0.5))])
    whole = stack.classify(IMAGES).trace
    part = whole.part(slice(1, 3))
    assert part.purification_distance.tolist() == whole.purification_distance[1:3].tolist()
    assert part.detections[0].abstained.tolist() == whole.detections[0].abstained[1:3].tolist()
    assert part.detections[0].calls.tolist() == whole.detections[0].calls[1:3].tolist()
    assert (part.seconds, part.intervals, part.model_calls) == ({}, (), 0)


def test_the_secret_reaches_the_masks() -> None:
    images = noise(5, SHAPE, 0)
    steps = [Step(TotalVariation(weight=0.2, keep_probability=0.5))]
    one, same, other = (
        DefendedClassifier(linear(SHAPE, 3), preprocessors=steps, secret=secret).predict(images) for secret in (b"1", b"1", b"2")
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
