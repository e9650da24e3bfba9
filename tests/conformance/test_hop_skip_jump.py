"""HopSkipJump against exact distances to a linear boundary, and ART as a second opinion (arXiv:1904.02144)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.hop_skip_jump import HopSkipJump
from models.classifier import Images
from models.datasets import Dataset
from tests.fakes import LinearClassifier, linear_with_gradients, noise

SHAPE = (6, 5, 3)


@pytest.fixture
def halves() -> LinearClassifier:
    """Two classes: one boundary, one distance."""
    return linear_with_gradients(SHAPE, 2)


def middling(n: int) -> Images:
    """So far from black and white that the nearest point of the boundary is an image."""
    return noise(n, SHAPE, 1) * np.float32(0.4) + np.float32(0.3)


def exact(classifier: LinearClassifier, images: Images, norm: float) -> NDArray[np.float64]:
    """The distance to the boundary: the margin over the dual norm of the difference of weights."""
    logits = classifier.logits(images).astype(np.float64)
    across = classifier.weights[:, 0] - classifier.weights[:, 1]
    distances: NDArray[np.float64] = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(
        across, ord=1 if norm == math.inf else 2
    )
    return distances


@pytest.mark.parametrize(("norm", "within"), [(2, 1.03), (math.inf, 1.08)])
def test_it_comes_within_a_few_per_cent_of_the_exact_distance(halves: LinearClassifier, norm: float, within: float) -> None:
    images = middling(8)
    goal = Goal(predicted_labels(halves.predict(images)))
    found = HopSkipJump(norm=norm, queries=8000)(halves, images, goal)
    assert found.success.all()
    ratio = found.distance / exact(halves, images, norm)
    assert ((ratio >= 1 - 1e-4) & (ratio <= within)).all(), ratio


@pytest.mark.parametrize("norm", [2, math.inf])
def test_the_distance_reported_is_that_of_the_images_returned(halves: LinearClassifier, norm: float) -> None:
    images = middling(5)
    found = HopSkipJump(norm=norm, queries=300)(halves, images, Goal(predicted_labels(halves.predict(images))))
    measured = np.linalg.norm((found.images - images).reshape(5, -1).astype(np.float64), ord=norm, axis=1)
    np.testing.assert_allclose(found.distance, measured, rtol=1e-5)


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("share", [0.9, 1.4])
def test_with_eps_success_is_within_and_so_is_every_image(halves: LinearClassifier, norm: float, share: float) -> None:
    images = middling(6)
    goal = Goal(predicted_labels(halves.predict(images)))
    eps = float(share * exact(halves, images, norm).max())
    reachable = exact(halves, images, norm) < eps
    found = HopSkipJump(norm=norm, queries=4000, eps=eps)(halves, images, goal)
    distance = np.linalg.norm((found.images - images).reshape(6, -1).astype(np.float64), ord=norm, axis=1)
    assert (distance <= eps * (1 + 1e-5)).all()
    assert (found.success <= reachable).all()
    assert found.success[exact(halves, images, norm) < eps / 1.3].all()
    np.testing.assert_array_equal(found.success, goal.reached(predicted_labels(halves.predict(found.images))))


def test_no_image_costs_more_than_its_queries(halves: LinearClassifier) -> None:
    images = middling(6)
    goal = Goal(predicted_labels(halves.predict(images)))
    for queries in (3, 10, 37, 200, 1001):
        for eps in (None, 1e-3):
            assert HopSkipJump(queries=queries, eps=eps)(halves, images, goal).queries.max() <= queries


def test_it_begins_from_the_nearest_start_of_a_label_that_will_do(halves: LinearClassifier) -> None:
    images = middling(30)
    labels = predicted_labels(halves.predict(images))
    starts = Dataset(images, labels)
    asked: list[Images] = []

    class Watched:
        input_shape, labels = halves.input_shape, halves.labels

        def predict(self, batch: Images) -> NDArray[np.float32]:
            asked.append(batch.copy())
            return halves.predict(batch)

    HopSkipJump(queries=20, starts=starts)(Watched(), images[:1], Goal(labels[:1]))
    others = images[labels != labels[0]]
    nearest = others[np.linalg.norm((others - images[0]).reshape(len(others), -1), axis=1).argmin()]
    np.testing.assert_array_equal(asked[1][0], nearest)


@pytest.mark.filterwarnings("ignore:PyTorch not found")
def test_with_the_same_queries_it_is_as_near_as_art(halves: LinearClassifier) -> None:
    from art.attacks.evasion import HopSkipJump as Peer
    from art.estimators.classification import BlackBoxClassifier

    images = middling(5)
    labels = predicted_labels(halves.predict(images))
    asked = 0

    def predict(batch: Images) -> NDArray[np.float32]:
        nonlocal asked
        asked += len(batch)
        return halves.predict(batch.astype(np.float32))

    peer = BlackBoxClassifier(predict, SHAPE, 2, clip_values=(0.0, 1.0))
    np.random.seed(0)
    theirs = Peer(peer, max_iter=8, verbose=False).generate(images)
    ours = HopSkipJump(queries=asked // 5)(halves, images, Goal(labels))
    assert ours.queries.sum() <= asked
    art = np.linalg.norm((theirs - images).reshape(5, -1), axis=1)
    assert np.median(ours.distance) <= np.median(art) * 1.02
