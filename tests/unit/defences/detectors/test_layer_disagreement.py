"""Layer disagreement: what it refuses to be made of, and how it stands in the data path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.layer_disagreement import NOT_JUDGED, LayerDisagreement
from defences.detectors.unprobed import LayerSession
from defences.errors import InvalidInput, InvalidParameter, StageFailure
from defences.keyed import Keys
from models.classifier import Images, LayeredAnswers, Probabilities
from tests.fakes import layered, linear, noise
from tests.property.strategies import layer_disagreement, strip

SHAPE = (8, 7, 3)
IMAGES = noise(40, SHAPE, 0)


def certain(label: int, p: float = 1.0) -> Probabilities:
    """Of every image p for this class, and as much for each of the three others."""
    row = np.full(4, (1 - p) / 3)
    row[label] = p
    return np.tile(row, (len(IMAGES), 1)).astype(np.float32)


@dataclass
class Darken:
    """A preprocessor that halves images."""

    name: str = "darken"

    def __call__(self, images: Images, keys: Keys) -> Images:
        return images / np.float32(2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": ()}, "expected names of layers"),
        ({"widths": np.array([168])}, r"expected widths of 2 layers and 4 classes, got shape \(1,\)"),
        ({"widths": np.array([168.0, 4.0])}, "expected widths"),
        ({"projection": np.zeros((172, 5), np.float32)}, "expected a projection of 172 features to 6 numbers"),
        ({"offset": np.zeros((1, 6), np.float32)}, "and offsets"),
        ({"references": np.zeros((2, 9), np.float32)}, "expected references"),
        ({"firsts": np.array([0, 4, 5, 9])}, "expected firsts of 2 layers and 4 classes"),
        ({"firsts": np.array([0, 5, 4, 9, 9])}, "expected firsts from 0 to 9"),
        ({"firsts": np.array([0, 4, 5, 9, 8])}, "expected firsts from 0 to 9"),
        ({"firsts": np.array([1, 4, 5, 9, 9])}, "expected firsts from 0 to 9"),
        ({"moments": np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])}, "deviations above 0"),
        ({"moments": np.array([[0.0, 1.0], [0.0, 1.0]])}, "expected moments"),
        ({"offset": np.full((2, 6), np.nan, np.float32)}, "expected finite arrays"),
        ({"threshold": np.nan}, "a threshold"),
    ],
)
def test_a_parameter_outside_its_domain_is_refused(changes: dict[str, Any], sentence: str) -> None:
    made = layer_disagreement(SHAPE, 0.0)
    given = {key: getattr(made, key) for key in ("layers", *made.record.calibrated)}
    with pytest.raises(InvalidParameter, match=sentence):
        type(made)(**given | changes)


def test_the_features_are_those_of_the_image_as_the_classifier_is_given_it() -> None:
    classifier, detector = layered(SHAPE, 4), layer_disagreement(SHAPE, 0.0)
    outputs = classifier.layered(detector.layers)(IMAGES / np.float32(2))
    wanted = detector.scores(outputs.features, outputs.probabilities)
    found = DefendedClassifier(classifier, preprocessors=[Step(Darken())], detectors=[Step(detector)]).classify(IMAGES)
    np.testing.assert_array_equal(found.trace.detections[0].scores, wanted)
    np.testing.assert_array_equal(found.abstained, wanted <= 0)
    assert 0 < found.abstained.sum() < len(IMAGES)


def test_it_takes_no_model_call_of_its_own_and_only_calls_with_new_images_show_layers() -> None:
    classifier = layered(SHAPE, 4)
    with_probes: list[Step[Any]] = [Step(layer_disagreement(SHAPE, 0.0)), Step(strip(SHAPE, 0.5))]
    found = DefendedClassifier(classifier, detectors=with_probes).classify(IMAGES)
    assert not found.trace.detections[0].calls.any()
    assert found.trace.model_calls == len(IMAGES) + found.trace.detections[1].calls.sum()
    assert classifier.seen == [len(IMAGES) + 2 * len(IMAGES)]
    assert classifier.calls > classifier.seen[0]


class Unasked(LayerSession):
    """A session that is asked for nothing that costs time and is known before."""

    @property
    def undecided(self) -> NDArray[np.int64]:
        raise AssertionError("it never is, once its image has an answer")

    @property
    def next_calls(self) -> NDArray[np.int64]:
        raise AssertionError("it takes none")


class AsksForNothing(LayerDisagreement):
    """Layer disagreement, in such a session."""

    def begin(self, images: Images, keys: Keys) -> LayerSession:
        session = Unasked(self.scores, self.threshold)
        session.join(np.empty(0, np.int64), images, keys)
        return session


def test_the_data_path_does_not_ask_it_for_probes_or_whether_images_are_undecided() -> None:
    classifier, made = layered(SHAPE, 4), layer_disagreement(SHAPE, 0.0)
    unasked = AsksForNothing(**{key: getattr(made, key) for key in ("layers", *made.record.calibrated)})
    found, wanted = (
        DefendedClassifier(classifier, detectors=[Step(detector), Step(strip(SHAPE, 0.5))]) for detector in (unasked, made)
    )
    np.testing.assert_array_equal(found.classify(IMAGES).abstained, wanted.classify(IMAGES).abstained)
    batch, decided = found.begin(IMAGES[:8]), 0
    assert found.costs(batch)[1].tolist() == [3] * 8
    found.advance(batch)
    found.join(batch, IMAGES[8:10])
    while batch.pending:
        wave = found.advance(batch)
        decided += 0 if wave is None else len(wave[0])
    assert decided >= 2


def test_without_it_no_call_shows_layers_and_switched_off_it_needs_none() -> None:
    classifier = layered(SHAPE, 4)
    DefendedClassifier(classifier, detectors=[Step(strip(SHAPE, 0.5))]).classify(IMAGES)
    assert classifier.seen == []
    off = [Step(layer_disagreement(SHAPE, 0.0), "off")]
    assert len(DefendedClassifier(linear(SHAPE, 4), detectors=off).classify(IMAGES).labels) == len(IMAGES)


def test_a_classifier_that_shows_no_layers_or_not_these_is_refused_in_a_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"layer_disagreement looks at layers .* FakeClassifier shows none"):
        DefendedClassifier(linear(SHAPE, 4), detectors=[Step(layer_disagreement(SHAPE, 0.0))])
    odd = layer_disagreement(SHAPE, 0.0, layers=("late",))
    object.__setattr__(odd, "layers", ("later",))
    with pytest.raises(InvalidInput, match="expected layers that are one of early, late, got later"):
        DefendedClassifier(layered(SHAPE, 4), detectors=[Step(odd)])
    both = [Step(layer_disagreement(SHAPE, 0.0)), Step(layer_disagreement(SHAPE, 0.0, layers=("late",)))]
    with pytest.raises(InvalidInput, match="expected detectors that look at the same layers"):
        DefendedClassifier(layered(SHAPE, 4), detectors=both)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("judged", [True, False])
def test_activations_that_are_no_numbers_fail_the_request(wrong: float, *, judged: bool) -> None:
    classifier, detector = layered(SHAPE, 4), layer_disagreement(SHAPE, 0.0, judged=np.full(4, judged))
    right = classifier.layered(detector.layers)

    def broken(images: Images) -> LayeredAnswers:
        outputs = right(images)
        outputs.features[-1, 3] = wrong
        return outputs

    classifier.layered = lambda layers: broken  # type: ignore[method-assign]  # a classifier of its own kind
    with pytest.raises(StageFailure, match="abstain"):
        DefendedClassifier(classifier, detectors=[Step(detector)]).classify(IMAGES)


def test_an_answer_of_a_class_that_had_no_images_is_not_refused() -> None:
    classifier = layered(SHAPE, 4)
    answers = classifier.predict(IMAGES).argmax(axis=1)
    detector = layer_disagreement(SHAPE, -1e-6, judged=np.array([True, False, True, True]))
    found = DefendedClassifier(classifier, detectors=[Step(detector)]).classify(IMAGES)
    assert (answers == 1).any()
    assert (found.trace.detections[0].scores[answers == 1] == NOT_JUDGED).all()
    assert not found.abstained[answers == 1].any()


def test_an_answer_of_a_class_that_no_reference_has_is_the_most_suspicious_there_is() -> None:
    detector = layer_disagreement(SHAPE, 0.0)
    features = layered(SHAPE, 4).layered(detector.layers)(IMAGES).features
    ranks = detector.parts(features, certain(3))[:, 1]
    np.testing.assert_allclose(ranks, np.log(1.001))
    assert (detector.parts(features, certain(0))[:, 1] < 0).all()


def test_the_surer_the_classifier_is_the_more_suspicious_is_an_answer_that_layers_do_not_bear_out() -> None:
    detector = layer_disagreement(SHAPE, 0.0)
    features = layered(SHAPE, 4).layered(detector.layers)(IMAGES).features
    sure, unsure, rounded = (certain(0, p) for p in (0.99, 0.4, 1.0))
    np.testing.assert_allclose(detector.parts(features, sure)[:, 2], np.log(99), rtol=1e-5)
    np.testing.assert_allclose(detector.parts(features, rounded)[:, 2], 16)
    fallen = detector.scores(features, unsure) - detector.scores(features, sure)
    np.testing.assert_allclose(fallen, (np.log(99) - np.log(2 / 3)) / (2 * detector.moments[2, 1]), rtol=1e-5)
