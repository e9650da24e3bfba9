"""A defended classifier as an adaptive attacker sees it: purifier, keys and STRIP in the gradient, refusals in the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.losses import cross_entropy, entropy_bits
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.keyed import image_keys, keyed_permutations
from defences.purifiers.total_variation import TotalVariation
from models.classifier import DifferentiableClassifier
from models.errors import InvalidInput
from tests.fakes import layered, linear_with_gradients, noise
from tests.property.strategies import binary_activation_detector, binary_input_detector, layer_disagreement

SHAPE = (6, 5, 3)
SECRET = b"the gateway's own"
CLASSIFIER = linear_with_gradients(SHAPE, 4)
IMAGES = noise(9, SHAPE, 3)
LABELS = CLASSIFIER.predict(IMAGES).argmax(axis=1)
MASKED = TotalVariation(weight=0.05, keep_probability=0.7)
OVERLAYS = np.rint(noise(8, SHAPE, 4) * 255).astype(np.uint8)


def strip(threshold: float, **options: Any) -> Strip:
    return Strip(overlays=OVERLAYS, threshold=threshold, stages=(2, 4, 8), slack=(0.0, 0.0, 0.0), **options)


def defended(**steps: Any) -> DefendedClassifier:
    return DefendedClassifier(CLASSIFIER, **steps, secret=SECRET)


def test_without_defences_it_is_the_classifier() -> None:
    view = AdaptiveView(defended(), CLASSIFIER)
    assert isinstance(view, DifferentiableClassifier)
    seen, own = (c.loss_gradient(IMAGES, LABELS, cross_entropy) for c in (view, CLASSIFIER))
    for left, right in zip(seen, own, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)
    np.testing.assert_array_equal(view.predict(IMAGES), CLASSIFIER.predict(IMAGES))


def test_the_gradient_is_the_slope_of_the_loss_behind_the_purifier() -> None:
    purifier = TotalVariation(
        weight=0.3, squared=True, iterations=400
    )  # a proximal map, run to its end: its Jacobian is symmetric
    view = AdaptiveView(defended(preprocessors=[Step(purifier)]), CLASSIFIER)
    keys = np.zeros(len(IMAGES), np.uint64)

    def loss(images: np.ndarray) -> np.ndarray:
        return cross_entropy(CLASSIFIER.logits(purifier(images, keys)), LABELS)[0].astype(np.float64)

    gradient = view.loss_gradient(IMAGES, LABELS, cross_entropy).gradient
    assert np.abs(purifier(IMAGES, keys) - IMAGES).max() > 0.1
    rng, h = np.random.default_rng(0), 0.02
    slopes, expected = [], []
    for _ in range(40):
        direction = rng.choice(np.array([-1, 1], np.float32), IMAGES.shape)
        slopes.append((loss(IMAGES + h * direction) - loss(IMAGES - h * direction)) / (2 * h))
        expected.append((gradient * direction).sum(axis=(1, 2, 3)))
    assert np.corrcoef(np.ravel(slopes), np.ravel(expected))[0, 1] > 0.97


def test_a_preprocessor_that_never_moves_is_taken_for_the_identity() -> None:
    class Rounds:
        name = "rounds"

        def __call__(self, images: np.ndarray, keys: np.ndarray) -> np.ndarray:
            return np.full_like(images, 0.25)

    view = AdaptiveView(defended(preprocessors=[Step(Rounds())]), CLASSIFIER)
    expected = CLASSIFIER.loss_gradient(np.full_like(IMAGES, 0.25), LABELS, cross_entropy).gradient
    np.testing.assert_allclose(view.loss_gradient(IMAGES, LABELS, cross_entropy).gradient, expected, rtol=1e-6)


def test_the_backward_pass_may_take_the_purifier_for_the_identity() -> None:
    purifier = TotalVariation(weight=0.05)
    view = AdaptiveView(defended(preprocessors=[Step(purifier)]), CLASSIFIER, identity=True)
    purified = purifier(IMAGES, np.zeros(len(IMAGES), np.uint64))
    expected = CLASSIFIER.loss_gradient(purified, LABELS, cross_entropy)
    np.testing.assert_allclose(view.loss_gradient(IMAGES, LABELS, cross_entropy).gradient, expected.gradient, rtol=1e-5)


def test_with_the_secret_the_forward_pass_is_the_gateways() -> None:
    target = defended(preprocessors=[Step(MASKED)])
    view = AdaptiveView(target, CLASSIFIER, secret=SECRET)
    expected = CLASSIFIER.logits(MASKED(IMAGES, target.keys(IMAGES)))
    np.testing.assert_allclose(view.logits(IMAGES), expected, rtol=1e-6)
    np.testing.assert_array_equal(view.logits(IMAGES).argmax(axis=1), target.predict(IMAGES).argmax(axis=1))


def test_without_the_secret_it_averages_over_keys_of_its_own() -> None:
    target = defended(preprocessors=[Step(MASKED)])
    rng = np.random.default_rng(5)
    views = [MASKED(IMAGES, image_keys(IMAGES, rng.bytes(16))) for _ in range(3)]
    gradients = [CLASSIFIER.loss_gradient(view, LABELS, cross_entropy).gradient for view in views]
    seen = AdaptiveView(target, CLASSIFIER, draws=3, seed=5, identity=True).loss_gradient(IMAGES, LABELS, cross_entropy)
    np.testing.assert_allclose(seen.gradient, np.mean(gradients, axis=0), rtol=1e-4, atol=1e-6)
    assert not np.allclose(gradients[0], gradients[1])


def test_a_purifier_without_randomness_is_passed_once() -> None:
    view = AdaptiveView(defended(preprocessors=[Step(TotalVariation(weight=0.05))]), CLASSIFIER, draws=7)
    CLASSIFIER.calls = 0
    view.loss_gradient(IMAGES, LABELS, cross_entropy)
    assert CLASSIFIER.calls == len(IMAGES)


def test_an_image_that_strip_would_refuse_has_no_logits_and_one_it_would_not_has() -> None:
    refuses, lets_go = (AdaptiveView(defended(detectors=[Step(strip(t))]), CLASSIFIER) for t in (9.0, -1.0))
    assert not refuses.logits(IMAGES).any()
    assert not refuses.predict(IMAGES).any()
    assert lets_go.logits(IMAGES).any(axis=1).all()


@pytest.mark.parametrize("options", [{}, {"blend": "mix", "weight": 0.5}])
def test_where_the_goal_is_reached_but_refused_the_gradient_is_that_of_the_mean_entropy(options: dict[str, Any]) -> None:
    view = AdaptiveView(defended(detectors=[Step(strip(9.0, **options))]), CLASSIFIER, seed=1)
    away = (LABELS + 1) % 4  # the classifier says another label than these: they are left already
    gradient = view.loss_gradient(IMAGES, away, cross_entropy).gradient
    order = keyed_permutations(image_keys(IMAGES, np.random.default_rng(1).bytes(16)), 8)

    def mean_entropy(images: np.ndarray) -> np.ndarray:
        probes = strip(9.0, **options).superimpose(images, order)
        bits = entropy_bits(CLASSIFIER.logits(probes), np.zeros(len(probes), np.int64))[0].astype(np.float64)
        means: np.ndarray[Any, Any] = bits.reshape(len(images), 8).mean(axis=1)
        return means

    h = 1e-3
    for place in ((0, 0, 0), (2, 3, 1), (5, 4, 2)):
        step = np.zeros(SHAPE, np.float32)
        step[place] = h
        slope = (mean_entropy(IMAGES + step) - mean_entropy(IMAGES - step)) / (2 * h)
        np.testing.assert_allclose(gradient[(slice(None), *place)], slope, atol=0.02 * np.abs(slope).max() + 2e-3)


def test_where_the_goal_is_not_reached_strip_does_not_disturb_the_gradient() -> None:
    view = AdaptiveView(defended(detectors=[Step(strip(9.0))]), CLASSIFIER)
    expected = CLASSIFIER.loss_gradient(IMAGES, LABELS, cross_entropy)
    np.testing.assert_allclose(view.loss_gradient(IMAGES, LABELS, cross_entropy).gradient, expected.gradient, rtol=1e-6)


def test_a_defence_that_only_monitors_is_not_in_the_way() -> None:
    steps = {"preprocessors": [Step(MASKED, "monitor")], "detectors": [Step(strip(9.0), "monitor")]}
    view = AdaptiveView(defended(**steps), CLASSIFIER)
    np.testing.assert_allclose(view.logits(IMAGES), CLASSIFIER.logits(IMAGES), rtol=1e-6)


def test_a_detector_that_cannot_be_differentiated_is_named() -> None:
    class Other:
        name, calls_at_most = "other", 3

    with pytest.raises(InvalidInput, match="got other; set it to monitor"):
        AdaptiveView(defended(detectors=[Step(Other())]), CLASSIFIER)


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"overlays": 0}])
def test_looking_at_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="draws >= 1 and overlays >= 1"):
        AdaptiveView(defended(), CLASSIFIER, **wrong)


def sentinet(threshold: float) -> SentiNet:
    return SentiNet(
        overlays=OVERLAYS,
        overlay_labels=np.arange(8) % 4,
        threshold=threshold,
        sides=(0.6, 0.5),
        stages=(1, 4),
        kept=(2, 2),
        slack=(1.0, 1.0, 0.0),  # the last step alone decides
    )


def test_an_image_that_sentinet_would_refuse_has_no_logits_and_one_it_would_not_has() -> None:
    refuses, lets_go = (AdaptiveView(defended(detectors=[Step(sentinet(t))]), CLASSIFIER) for t in (9.0, -1.0))
    assert not refuses.logits(IMAGES).any()
    assert not refuses.predict(IMAGES).any()
    assert lets_go.logits(IMAGES).any(axis=1).all()


def test_with_the_secret_the_attacker_knows_which_images_sentinet_refuses() -> None:
    scores = defended(detectors=[Step(sentinet(9.0))]).classify(IMAGES).trace.detections[0].scores
    target = defended(detectors=[Step(sentinet(float(np.median(scores))))])
    view = AdaptiveView(target, CLASSIFIER, secret=SECRET)
    refused = target.classify(IMAGES).abstained
    assert 0 < refused.sum() < len(IMAGES)
    np.testing.assert_array_equal(~view.logits(IMAGES).any(axis=1), refused)


def test_where_sentinet_would_refuse_the_gradient_leads_out_of_its_worst_window() -> None:
    view = AdaptiveView(defended(detectors=[Step(sentinet(9.0))]), CLASSIFIER, secret=SECRET)
    away = (LABELS + 1) % 4
    gradient = view.loss_gradient(IMAGES, away, cross_entropy).gradient
    session = sentinet(9.0).begin(IMAGES, image_keys(IMAGES, SECRET))
    while session.undecided.size:
        session.decide(CLASSIFIER.predict(session.probe()))
    windows, overlay_of = session.worst(np.arange(len(IMAGES)), 8)
    assert overlay_of.shape == (len(IMAGES), 4)  # it never looks at more
    inside = sentinet(9.0).inside(windows)
    assert not gradient[~np.broadcast_to(inside, gradient.shape)].any()

    def score(images: np.ndarray) -> np.ndarray:
        image_of = np.repeat(np.arange(len(images)), 4)
        probes = sentinet(9.0).transplant(images, image_of, overlay_of.ravel(), np.repeat(windows, 4))
        sure = CLASSIFIER.predict(probes)[np.arange(len(probes)), LABELS[image_of]].astype(np.float64)
        found: np.ndarray[Any, Any] = 1 - sure.reshape(-1, 4).mean(axis=1)
        return found

    np.testing.assert_allclose(score(IMAGES), session.scores, atol=1e-6)
    h = 1e-2
    for place in ((1, 1, 0), (2, 2, 1), (4, 3, 2)):
        step = np.zeros(SHAPE, np.float32)
        step[place] = h
        slope = (score(IMAGES + step) - score(IMAGES - step)) / (2 * h)
        np.testing.assert_allclose(gradient[(slice(None), *place)], slope, atol=0.02 * np.abs(slope).max() + 1e-3)


@pytest.mark.parametrize("make", [binary_input_detector, binary_activation_detector])
@pytest.mark.parametrize("targeted", [False, True])
def test_where_the_goal_is_reached_but_a_binary_detector_refuses_the_gradient_is_that_of_its_score(
    make: Any, targeted: bool
) -> None:
    detector = make(SHAPE, 0.0)
    middle = float(np.median(detector.scores(IMAGES)))
    refused = detector.scores(IMAGES) <= middle
    view = AdaptiveView(defended(detectors=[Step(make(SHAPE, middle))]), CLASSIFIER, targeted=targeted)
    reached = LABELS if targeted else (LABELS + 1) % 4
    found = view.loss_gradient(IMAGES, reached, cross_entropy)
    own = CLASSIFIER.loss_gradient(IMAGES, reached, cross_entropy).gradient
    uphill = detector.score_gradients(IMAGES)[1] * (-1 if targeted else 1)
    np.testing.assert_allclose(found.gradient[refused], uphill[refused], rtol=1e-5)
    np.testing.assert_allclose(found.gradient[~refused], own[~refused], rtol=1e-5)
    np.testing.assert_array_equal(~view.logits(IMAGES).any(axis=1), refused)
    np.testing.assert_array_equal(~view.predict(IMAGES).any(axis=1), refused)


def test_where_layers_disagree_the_gradient_leads_out_of_the_refusal_through_the_purifier() -> None:
    classifier, purifier = layered(SHAPE, 4), TotalVariation(weight=0.02)
    detector = layer_disagreement(SHAPE, 0.0)
    target = DefendedClassifier(classifier, preprocessors=[Step(purifier)], detectors=[Step(detector)], secret=SECRET)
    view = AdaptiveView(target, classifier)
    answers = target.classify(IMAGES)
    refused = answers.abstained
    assert 0 < refused.sum() < len(IMAGES)
    wrong = (classifier.predict(purifier(IMAGES, target.keys(IMAGES))).argmax(axis=1) + 1) % 4  # the goal is reached
    seen = view.loss_gradient(IMAGES, wrong, cross_entropy)
    assert not seen.logits[refused].any()
    assert seen.logits[~refused].any(axis=1).all()
    towards = seen.gradient / np.abs(seen.gradient).max(axis=(1, 2, 3), keepdims=True)
    before, after = (target.classify(some).trace.detections[0].scores for some in (IMAGES, IMAGES + np.float32(0.02) * towards))
    assert (after - before)[refused].mean() > 0


def test_layers_that_cannot_be_differentiated_are_refused_in_a_sentence() -> None:
    target = DefendedClassifier(layered(SHAPE, 4), detectors=[Step(layer_disagreement(SHAPE, 0.0))])
    with pytest.raises(
        InvalidInput, match="layer_disagreement: expected a classifier whose layers can be read and differentiated"
    ):
        AdaptiveView(target, CLASSIFIER).logits(IMAGES)
