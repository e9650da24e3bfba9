"""The reverse sigmoid undone: exactly where the maths says it can be, and never into a row that would not give the answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attacks.extraction.inversion import InvertedClassifier, invert_reverse_sigmoid
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Probabilities
from tests.fakes import FakeClassifier, softmax

PARAMETERS = [(1.0, 0.1), (1.0, 0.2), (0.5, 0.3), (0.7, 0.05)]
CLASSES = [2, 3, 5, 10, 20]


def fold(beta: float, gamma: float, classes: int) -> float:
    """Where h(y) = y - beta_k (sigmoid(gamma logit y) - 1/2) turns: the losing probability under which a smaller one is answered larger.

    By its derivative, 1 - beta_k gamma s (1 - s) / (y (1 - y)) with s = sigmoid(gamma logit y), and bisection, in plain Python.
    """
    beta *= min(1.0, 9 / (classes - 1))

    def slope(y: float) -> float:
        s = 1 / (1 + math.exp(-gamma * math.log(y / (1 - y))))
        return 1 - beta * gamma * s * (1 - s) / (y * (1 - y))

    low, high = math.log(1e-9), math.log(0.5)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(low)


def rows(n: int, classes: int) -> Probabilities:
    """Rows from nearly flat to one-hot in float32."""
    rng = np.random.default_rng(classes)
    return softmax(rng.normal(size=(n, classes)) * rng.uniform(0.1, 14, (n, 1)))


def confident(y: Probabilities, beta: float, gamma: float) -> np.ndarray:
    """Rows whose losers together hold less than the fold."""
    together: np.ndarray = np.sort(y.astype(np.float64), axis=1)[:, :-1].sum(axis=1)
    return together < fold(beta, gamma, y.shape[1])


def test_the_fold_is_where_the_docstring_says() -> None:
    assert fold(1.0, 0.1, 10) == pytest.approx(0.0248, abs=1e-4)


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
@pytest.mark.parametrize("classes", CLASSES)
def test_confident_rows_come_back(classes: int, beta: float, gamma: float) -> None:
    y = rows(600, classes)
    answers = ReverseSigmoid(beta=beta, gamma=gamma)(y)
    found = invert_reverse_sigmoid(answers, beta=beta, gamma=gamma)
    sure = confident(y, beta, gamma)
    assert sure.sum() > 50
    assert found.solved[sure].all()
    np.testing.assert_allclose(found.probabilities[sure], y[sure], atol=1e-4)
    small = sure[:, None] & (y > 1e-7) & (y < 0.5)
    np.testing.assert_allclose(
        found.probabilities[small], y[small], rtol=0.05
    )  # also in logarithm: the most strongly hidden values


@pytest.mark.parametrize(("beta", "gamma"), PARAMETERS)
@pytest.mark.parametrize("classes", CLASSES)
def test_what_counts_as_solved_gives_the_answer_again_and_the_rest_is_as_answered(
    classes: int, beta: float, gamma: float
) -> None:
    defence = ReverseSigmoid(beta=beta, gamma=gamma)
    answers = defence(rows(600, classes))
    found = invert_reverse_sigmoid(answers, beta=beta, gamma=gamma)
    assert (found.probabilities >= 0).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    again = defence(found.probabilities.astype(np.float32))
    np.testing.assert_allclose(again[found.solved], answers[found.solved], atol=2e-5)
    np.testing.assert_array_equal(found.probabilities[~found.solved], answers[~found.solved])


def test_where_the_curve_has_no_fold_every_row_comes_back() -> None:
    y = rows(400, 10)
    found = invert_reverse_sigmoid(ReverseSigmoid(beta=0.1, gamma=1.0)(y), beta=0.1, gamma=1.0)
    assert found.solved.all()
    np.testing.assert_allclose(found.probabilities, y, atol=1e-5)


def test_two_rows_with_one_answer_come_back_as_the_more_confident_one() -> None:
    defence = ReverseSigmoid()
    hesitant = np.array([[0.7, 0.3]], np.float32)
    answer = defence(hesitant)
    found = invert_reverse_sigmoid(answer, beta=1.0, gamma=0.1)
    assert found.solved.all()
    assert found.probabilities[0, 0] > 0.99
    np.testing.assert_allclose(defence(found.probabilities.astype(np.float32)), answer, atol=1e-5)


def test_of_rows_the_argmax_guard_acted_on_many_come_back_as_another_with_the_same_answer() -> None:
    y = rows(3000, 10)
    answers, guarded = ReverseSigmoid(gamma=0.2).obscure(y)
    assert guarded.sum() > 100
    found = invert_reverse_sigmoid(answers[guarded], beta=1.0, gamma=0.2)
    again = ReverseSigmoid(gamma=0.2)(found.probabilities.astype(np.float32))
    np.testing.assert_allclose(again[found.solved], answers[guarded][found.solved], atol=2e-5)
    wrong = np.abs(found.probabilities - y[guarded]).max(axis=1) > 1e-3
    assert (found.solved & wrong).mean() > 0.2


def test_the_wrong_gamma_only_raises_a_confident_loser_to_a_power() -> None:
    # Losers far under the fold: h = beta tanh(gamma |logit| / 2) / 2, which knows gamma and the logit only by their product.
    y = np.array([[1 - 3e-4, 2e-4, 7e-5, 3e-5]], np.float32)
    found = invert_reverse_sigmoid(ReverseSigmoid(gamma=0.1)(y), beta=1.0, gamma=0.12)
    powers = np.log(found.probabilities[0, 1:]) / np.log(y[0, 1:])
    assert found.probabilities.argmax() == 0
    assert powers.max() - powers.min() < 0.05


def test_no_rows_are_no_trouble() -> None:
    found = invert_reverse_sigmoid(np.empty((0, 4), np.float32), beta=1.0, gamma=0.1)
    assert found.probabilities.shape == (0, 4)


def test_an_inverted_classifier_gives_the_answers_from_before_the_reverse_sigmoid_and_keeps_refusals() -> None:
    sure = np.array([[0.9999, 0.0001 / 2, 0.0001 / 2], [0.99, 0.007, 0.003], [0.0, 0.0, 0.0]], np.float32)
    blurred = ReverseSigmoid()(sure)
    assert blurred[0, 0] < blurred[1, 0], "surer, and answered lower"
    found = InvertedClassifier(classifier=FakeClassifier(lambda images: blurred, (1, 1, 1), 3), beta=1.0, gamma=0.1).predict(
        np.zeros((3, 1, 1, 1), np.float32)
    )
    np.testing.assert_allclose(found, sure, atol=1e-4)
    assert not found[2].any()


def test_unblurring_never_changes_the_label() -> None:
    given = rows(500, 5)
    blurred = ReverseSigmoid(gamma=0.2)(given)
    other = InvertedClassifier(
        classifier=FakeClassifier(lambda images: blurred, (1, 1, 1), 5), beta=0.6, gamma=0.1
    )  # not its parameters
    np.testing.assert_array_equal(other.predict(np.zeros((500, 1, 1, 1), np.float32)).argmax(axis=1), blurred.argmax(axis=1))
