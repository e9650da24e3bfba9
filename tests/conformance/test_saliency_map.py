"""The saliency map attack: its budget, and its linear search against the published search over all pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.saliency_map import SaliencyMap, salient_pairs
from models.errors import InvalidInput
from tests.fakes import LinearClassifier, linear_with_gradients, noise
from tests.property.strategies import seeds

SHAPE = (5, 3, 3)
SIZE = 45


def best_pair_of_all(
    jacobian: NDArray[np.float64], target: int, admissible: NDArray[np.bool_], theta: float
) -> tuple[int, int] | None:
    """The paper's search: every pair, alpha and beta from the derivatives of all classes."""
    best, value = None, 0.0
    for i, j in itertools.combinations(np.flatnonzero(admissible), 2):
        alpha = jacobian[target, i] + jacobian[target, j]
        beta = jacobian[:, [i, j]].sum() - alpha
        if theta < 0:
            alpha, beta = -alpha, -beta
        if alpha > 0 and beta < 0 and abs(alpha * beta) > value:
            best, value = (int(i), int(j)), abs(alpha * beta)
    return best


@given(seed=seeds, theta=st.sampled_from([1.0, -1.0]), shift=st.floats(-3, 3))
def test_the_linear_search_finds_the_pair_of_the_search_over_all_pairs(seed: int, theta: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    classes, size = 4, 12
    # The Jacobian of a softmax: what all classes gain together is nothing.
    p = rng.dirichlet(np.ones(classes))
    weights = rng.normal(size=(classes, size)) + shift * np.eye(classes)[[0]].T
    jacobian = p[:, None] * (weights - p @ weights)
    image = rng.random((1, 3, 4, 1), dtype=np.float32)
    image[rng.random(image.shape) < 0.3] = 1.0 if theta > 0 else 0.0
    admissible = image.ravel() != (1.0 if theta > 0 else 0.0)
    changed = np.zeros((1, size), bool)
    rise = (jacobian[1] / p[1]).astype(np.float32).reshape(image.shape)  # that of log p_1
    found = salient_pairs(rise, image, changed, size, theta)[0]
    expected = best_pair_of_all(jacobian, 1, admissible, theta)
    if expected is None:
        assert found[1] == -1
    else:
        assert set(found) == set(expected)


@given(seed=seeds, budget=st.integers(1, 8), used=st.integers(0, 8))
def test_within_the_budget_the_search_finds_the_best_pair_that_it_allows(seed: int, budget: int, used: int) -> None:
    rng = np.random.default_rng(seed)
    rise, image = rng.normal(size=(1, 3, 4, 1)).astype(np.float32), rng.random((1, 3, 4, 1), dtype=np.float32)
    changed = np.zeros((1, 12), bool)
    changed[0, rng.permutation(12)[: min(used, budget)]] = True
    found = salient_pairs(rise, image, changed, budget, 1.0)[0]
    values, left = rise.ravel(), budget - int(changed.sum())
    allowed = [
        (values[i] + values[j], {i, j})
        for i, j in itertools.combinations(range(12), 2)
        if np.count_nonzero(~changed[0, [i, j]]) <= left
    ]
    pair = max(((v, p) for v, p in allowed if v > 0), default=None, key=lambda one: one[0])
    if pair is not None:
        assert set(found) == pair[1]
    else:
        alone = [i for i in range(12) if values[i] > 0 and (changed[0, i] or left)]
        assert found[0] == (max(alone, key=lambda i: values[i]) if alone else -1)
        assert found[1] == -1


@pytest.mark.parametrize("theta", [1.0, 0.25, -1.0, -0.4])
@pytest.mark.parametrize("budget", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("targeted", [False, True])
def test_no_more_components_change_than_the_budget_also_when_it_is_odd(theta: float, budget: int, targeted: bool) -> None:
    model = linear_with_gradients(SHAPE, 4)
    images = noise(16, SHAPE, 1)
    labels = predicted_labels(model.predict(images))
    goal = Goal((labels + np.arange(16) % 3 + 1) % 4 if targeted else labels, targeted)
    found = SaliencyMap(theta=theta, gamma=(budget + 0.5) / SIZE)(model, images, goal)
    changed = np.count_nonzero((found.images != images).reshape(16, -1), axis=1)
    assert (changed <= budget).all()
    assert (changed[~found.success] == budget).all(), "an image that fails has spent its budget, with 20 of 45 components"
    assert (np.sign(found.images - images) * np.sign(theta) >= 0).all()


def test_the_whole_budget_is_that_of_the_share_whatever_its_binary_digits() -> None:
    model = LinearClassifier(np.stack([np.ones(100), np.zeros(100)], axis=1), np.array([0.0, -1000.0]), (10, 10, 1))
    images, goal = np.full((1, 10, 10, 1), 0.5, np.float32), Goal(np.array([1]), targeted=True)
    for gamma in (0.07, 0.29, 0.57, 1.0):
        found = SaliencyMap(theta=-1.0, gamma=gamma)(model, images, goal)
        assert np.count_nonzero(found.images != images) == round(100 * gamma)
        assert not found.success.any()


def test_every_image_goes_to_a_target_of_its_own() -> None:
    model = linear_with_gradients(SHAPE, 4)
    images = noise(12, SHAPE, 2)
    targets = np.arange(12) % 4
    found = SaliencyMap(gamma=0.9)(model, images, Goal(targets, targeted=True))
    assert found.success.all()
    np.testing.assert_array_equal(predicted_labels(model.predict(found.images)), targets)


def test_an_image_of_224_by_224_in_colour_is_a_matter_of_seconds() -> None:
    shape = (224, 224, 3)
    model = linear_with_gradients(shape, 3)
    images = noise(2, shape, 3)
    labels = predicted_labels(model.predict(images))
    model.weights *= 0.1  # so that it takes many pairs
    model.bias *= 0.1
    found = SaliencyMap(gamma=0.002)(model, images, Goal(labels))
    changed = np.count_nonzero((found.images != images).reshape(2, -1), axis=1)
    assert (changed <= 301).all()
    assert (changed > 20).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gamma": 0.0}, r"saliency_map: expected gamma in \(0, 1\]"),
        ({"gamma": 1.1}, r"expected gamma in \(0, 1\]"),
        ({"gamma": float("nan")}, r"expected gamma in \(0, 1\]"),
        ({"theta": 0.0}, "expected theta from -1 to 1 and not 0"),
        ({"theta": float("nan")}, "expected theta from -1 to 1 and not 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        SaliencyMap(**options)


def test_a_share_of_less_than_one_component_is_refused() -> None:
    model = linear_with_gradients(SHAPE, 4)
    with pytest.raises(
        InvalidInput, match=r"expected gamma \* 45 components to be at least 1, got gamma 0.01; use 0.022 or more"
    ):
        SaliencyMap(gamma=0.01)(model, noise(1, SHAPE, 0), Goal(np.zeros(1, np.int64)))
