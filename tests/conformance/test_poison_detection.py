"""The parts of poison detection against independent computations: NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.linear_model import Ridge
from sklearn.metrics import silhouette_score

from defences.poison.class_split import split_class
from defences.poison.exclusionary_reclassification import reclassify
from defences.poison.findings import confusion
from defences.poison.within_class import DIRECTIONS_AT_MOST, whiten, within_classes


@pytest.mark.parametrize("width", [5, 100])
def test_moments_gathered_in_batches_are_those_of_all_samples(width: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 9000)
    activations = rng.normal(size=(9000, width)) * rng.uniform(0.2, 3, width) + 50 * labels[:, None]
    within = within_classes(activations, labels, 4)
    residual = activations - np.stack([activations[labels == label].mean(axis=0) for label in range(3)])[labels]
    values = np.sort(np.linalg.eigvalsh(residual.T @ residual))[::-1][:DIRECTIONS_AT_MOST]
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(within.scatter.sum(axis=0)))[::-1], values, rtol=1e-6)
    np.testing.assert_allclose(within.reduced.astype(float).T @ within.reduced, within.scatter.sum(axis=0), rtol=1e-3, atol=0.5)
    others = np.mean([np.cov(within.reduced[labels == label].T) for label in (1, 2)], axis=0)
    shared = within.shared(0)
    assert shared is not None
    np.testing.assert_allclose(shared, others, atol=1e-4 * np.trace(others))


def test_two_bells_are_split_where_the_densities_cross_and_have_the_distance_they_were_given() -> None:
    rng = np.random.default_rng(1)
    second = np.arange(2000) < 600
    samples = rng.normal(size=(2000, 12))
    samples[second, 4] += 8
    split = split_class(samples, None)
    assert split is not None
    assert max((split.second == second).mean(), (split.second != second).mean()) >= 0.999
    assert split.distance == pytest.approx(8, rel=0.06)
    assert split.valley is not None
    assert split.valley < 0.05


def test_the_silhouette_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(300, 4))
    samples[:100, 0] += 9
    split = split_class(samples, None, dimensions=4)
    assert split is not None
    assert split.silhouette == pytest.approx(silhouette_score(samples, split.second), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_one_bell_has_no_valley(seed: int) -> None:
    split = split_class(np.random.default_rng(seed).normal(size=(3000, 20)), None)
    assert split is not None
    assert split.valley is not None
    assert split.valley > 0.55


def test_reclassification_is_weighted_ridge_regression() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], [200, 50, 20])
    features = rng.normal(size=(270, 8)) + 3 * np.eye(8)[labels]
    asked = rng.normal(size=(40, 8)) + 3 * np.eye(8)[rng.integers(0, 3, 40)]
    back = np.flatnonzero(labels != 1)[::5]  # kept back, to know what the classifier is usually sure of
    x, y = np.delete(features, back, axis=0), np.delete(labels, back)
    weights = 1 / (3 * np.bincount(y)[y])
    middle = weights @ x
    moments = (x - middle).T @ ((x - middle) * weights[:, None])
    ridge = Ridge(alpha=0.05 * np.trace(moments) / 8, solver="cholesky").fit(x, np.eye(3)[y], sample_weight=weights)
    scores = ridge.predict(asked)
    found = reclassify(features, labels, asked, own=1, classes=3)
    np.testing.assert_array_equal(found.classes, scores.argmax(axis=1))
    ordered = np.sort(scores, axis=1)
    assert found.margin == pytest.approx((ordered[:, 2] - ordered[:, 1]).mean(), rel=1e-6)
    usual = np.sort(ridge.predict(features[back]), axis=1)
    assert found.home == pytest.approx(found.margin / (usual[:, 2] - usual[:, 1]).mean(), rel=1e-6)
    assert found.own == (scores.argmax(axis=1) == 1).mean()


def test_a_spectral_score_is_a_mahalanobis_distance() -> None:
    rng = np.random.default_rng(4)
    root = rng.normal(size=(6, 6))
    shared = root @ root.T
    samples = rng.normal(size=(10, 6))
    floor = 0.01 * np.linalg.eigvalsh(shared)[-1]
    inverse = np.linalg.inv(shared + floor * np.eye(6))
    wanted = [mahalanobis(sample, np.zeros(6), inverse) ** 2 for sample in samples]
    np.testing.assert_allclose((whiten(samples, shared) ** 2).sum(axis=1), wanted, rtol=1e-9)


def test_a_confusion_counts_every_sample_once() -> None:
    found = confusion(np.array([True, True, False, False, True]), np.array([True, False, False, True, True]))
    assert (found.found, found.missed, found.flagged, found.passed) == (1, 1, 1, 2)
    assert (found.tpr, found.fpr) == (1 / 2, 1 / 3)
    assert confusion(np.ones(3, bool), np.ones(3, bool)).tpr is None
