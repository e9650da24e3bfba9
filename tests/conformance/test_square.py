"""Square against its paper: the schedule, stripes and pyramids, and balls that are kept (arXiv:1912.00049)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.square import Square, attackers_margin, pyramids, side
from models.classifier import Images, Probabilities
from tests.fakes import LinearClassifier, linear_with_gradients, noise

SHAPE = (12, 10, 3)


class Watched:
    """Remembers every image it was asked about; never fooled."""

    input_shape, labels = SHAPE, ("a", "b")

    def __init__(self) -> None:
        self.asked: list[Images] = []

    def predict(self, images: Images) -> Probabilities:
        self.asked.append(images.copy())
        return np.tile(np.array([0.9, 0.1], np.float32), (len(images), 1))


def middling(n: int) -> Images:
    """Images so far from black and white that nothing is clipped."""
    return noise(n, SHAPE, 3) * np.float32(0.2) + np.float32(0.4)


def asked(attack: Square, images: Images) -> list[Images]:
    classifier = Watched()
    attack(classifier, images, Goal(np.zeros(len(images), np.int64)), seed=1)
    return classifier.asked


@pytest.mark.parametrize(
    ("step", "halved"),
    [(0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (201, 3), (501, 4), (1001, 5), (2001, 6), (4001, 7), (6001, 8), (8001, 9)],
)
def test_p_is_halved_where_the_paper_halves_it(step: int, halved: int) -> None:
    assert side(0.8, step, 10_000, 100, 100) == round(math.sqrt(0.8 / 2**halved * 10_000))


def test_the_schedule_is_stretched_to_the_budget_and_never_below_one_pixel() -> None:
    assert [side(0.8, step, 1000, 28, 28) for step in (1, 2)] == [side(0.8, step, 10_000, 28, 28) for step in (10, 20)]
    assert side(0.05, 99, 100, 28, 28) == 1


def test_linf_begins_with_vertical_stripes_of_eps() -> None:
    images = middling(4)
    start = asked(Square(eps=0.1, queries=3), images)[1]
    np.testing.assert_allclose(np.abs(start - images), 0.1, atol=1e-6)
    signs = np.sign(start - images)
    assert (signs == signs[:, :1]).all()
    assert 0.2 < (signs > 0).mean() < 0.8


def test_an_linf_step_changes_one_square_to_plus_or_minus_eps_in_each_channel() -> None:
    images = middling(6)
    _, start, first = asked(Square(eps=0.1, queries=3), images)
    for before, after, image in zip(start, first, images, strict=True):
        rows, columns, _ = np.nonzero(before != after)
        assert rows.size, "a query for an unchanged image is wasted"
        assert max(np.ptp(rows), np.ptp(columns)) < side(0.8, 0, 1, *SHAPE[:2])
        np.testing.assert_allclose(np.abs(after - image), 0.1, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [(math.inf, 0.25), (2, 1.5)])
def test_every_image_asked_about_is_in_the_ball_and_in_the_box(norm: float, eps: float) -> None:
    images = noise(5, SHAPE, 3)
    for call in asked(Square(eps=eps, norm=norm, queries=400), images):
        assert ((call >= 0) & (call <= 1)).all()
        distance = np.linalg.norm((call - images).reshape(5, -1).astype(np.float64), ord=norm, axis=1)
        assert (distance <= eps * (1 + 1e-5)).all()


def test_an_l2_step_keeps_all_energy_where_nothing_is_clipped() -> None:
    images = middling(5)
    for call in asked(Square(eps=0.05, norm=2, queries=300), images)[1:]:
        distance = np.linalg.norm((call - images).reshape(5, -1).astype(np.float64), axis=1)
        np.testing.assert_allclose(distance, 0.05, rtol=1e-4)


def paper_eta(h: int) -> NDArray[np.float64]:
    """Section 3.4 of the paper, symbol by symbol."""

    def half(h1: int, h2: int) -> NDArray[np.float64]:
        eta, n = np.zeros((h1, h2)), h1 // 2
        for r in range(1, h1 + 1):
            for s in range(1, h2 + 1):
                m = n - max(abs(r - h1 // 2 - 1), abs(s - h2 // 2 - 1))
                eta[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        return eta

    k = h // 2
    both = np.concatenate([half(h, k), -half(h, h - k)], axis=1)
    unit: NDArray[np.float64] = both / np.linalg.norm(both)
    return unit


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 11])
def test_the_pyramids_are_the_papers_eta(size: int) -> None:
    np.testing.assert_allclose(pyramids(size), paper_eta(size), atol=1e-6)


def test_the_margin_is_that_of_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)) * 3
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = np.arange(20) % 5
    others = logits.copy()
    others[np.arange(20), labels] = -np.inf
    ahead = others.max(axis=1) - logits[np.arange(20), labels]
    np.testing.assert_allclose(attackers_margin(probabilities, Goal(labels)), ahead, atol=1e-4)
    np.testing.assert_allclose(attackers_margin(probabilities, Goal(labels, targeted=True)), -ahead, atol=1e-4)


@pytest.mark.parametrize(("norm", "share"), [(math.inf, 1.15), (2, 3.0)])
def test_a_linear_classifier_falls_when_eps_is_a_little_beyond_its_exact_distance(norm: float, share: float) -> None:
    """L-inf finds the vertex it needs almost; L2 concentrates on squares, and needs more."""
    classifier: LinearClassifier = linear_with_gradients(SHAPE, 2)
    images = middling(3)
    labels = predicted_labels(classifier.predict(images))
    logits = classifier.logits(images).astype(np.float64)
    across = classifier.weights[:, 0] - classifier.weights[:, 1]
    exact = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(across, ord=1 if norm == math.inf else 2)
    hit = []
    for image, label, distance in zip(images, labels, exact, strict=True):
        for factor in (0.97, share):
            attack = Square(eps=float(distance * factor), norm=norm, queries=1500, fraction=0.3)
            hit.append(bool(attack(classifier, image[None], Goal(np.array([label]))).success[0]))
    assert hit == [False, True] * 3
