"""Layer disagreement beside the normal distributions and distances that it stands for, as SciPy and scikit-learn compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logit
from scipy.stats import multivariate_normal

from defences.calibration.layer_disagreement import Seen, fitted_to
from defences.calibration.ledoit_wolf import ledoit_wolf

pytest.importorskip("sklearn")

CLASSES, WIDTH = 6, 4  # so many classes that their means span all directions
LAYERS = {"first": (1, 1, WIDTH), "second": (1, 1, WIDTH)}


def drawn(n: int, seed: int) -> Seen:
    """Two layers of correlated features around a mean a class, the second twice as telling; one answer in twenty is wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    means = np.random.default_rng(99).normal(size=(2, CLASSES, WIDTH)) * np.array([1.0, 2.0])[:, None, None]
    mixing = np.random.default_rng(98).normal(size=(2, WIDTH, WIDTH))
    features = np.concatenate([means[at][labels] + rng.normal(size=(n, WIDTH)) @ mixing[at] for at in range(2)], axis=1)
    answers = np.where(rng.random(n) < 0.05, (labels + 1) % CLASSES, labels)
    return Seen(features.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[answers], labels)


@pytest.mark.parametrize(("n", "d"), [(50, 20), (30, 100), (1000, 40)])
def test_the_shrunk_covariance_is_scikit_learns(n: int, d: int) -> None:
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    samples = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    np.testing.assert_allclose(ledoit_wolf(samples), LedoitWolf(assume_centered=True).fit(samples).covariance_, rtol=1e-9)


def test_the_parts_of_the_score_are_their_definitions() -> None:
    from sklearn.covariance import LedoitWolf

    data, others = drawn(400, 0), drawn(50, 1)
    others = Seen(others.features, np.random.default_rng(2).dirichlet(np.ones(CLASSES), 50).astype(np.float32), others.labels)
    detector = fitted_to(LAYERS, data, CLASSES, np.random.default_rng(0))
    right = data.answers == data.labels
    surprise, rank = np.zeros(50), np.zeros(50)
    for start in (0, WIDTH):
        known, asked = (some.features[:, start : start + WIDTH].astype(np.float64) for some in (data, others))
        asked, known = (asked - known.mean(axis=0)) / known.std(axis=0), (known - known.mean(axis=0)) / known.std(axis=0)
        means = np.stack([known[data.labels == label].mean(axis=0) for label in range(CLASSES)])
        covariance = LedoitWolf(assume_centered=True).fit(known - means[data.labels]).covariance_
        densities = np.stack([multivariate_normal(mean, covariance).pdf(asked) for mean in means], axis=1)
        p = (densities / densities.sum(axis=1, keepdims=True))[np.arange(50), others.answers]
        surprise += (np.log1p(-np.log(p)) + 1e-4 * np.log(-np.log(p))) / 2
        apart = cdist(asked, known[right], "mahalanobis", VI=np.linalg.inv(covariance))
        for image, answer in enumerate(others.answers):
            nearest = apart[image, data.labels[right] == answer].min()
            rank[image] += np.log((apart[image] < nearest).mean() + 1e-3) / 2
    found = detector.parts(others.features, others.probabilities)
    np.testing.assert_allclose(found[:, 0], surprise, rtol=1e-3, atol=1e-4)
    own = others.probabilities.max(axis=1).astype(np.float64)
    np.testing.assert_allclose(found[:, 2], logit(own), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], rank, rtol=0.02)  # a neighbour may change places in float32


def test_axes_beyond_those_on_which_classes_differ_are_none() -> None:
    data = drawn(300, 3)
    few = np.flatnonzero(data.labels < 2)
    detector = fitted_to(LAYERS, data.take(few), CLASSES, np.random.default_rng(0))
    assert (detector.references[:, 0] != 0).any()
    assert not detector.references[:, 1:].any()
    np.testing.assert_array_equal(detector.judged, np.arange(CLASSES) < 2)
