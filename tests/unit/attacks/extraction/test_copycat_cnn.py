"""Queries and copies: budgets are prefixes, refusals are dropped and counted, the same seed gives the same copy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from attacks.extraction.copycat_cnn import CopycatCNN, train_copy
from attacks.extraction.thief import THIEVES, Guess, Thief
from attacks.extraction.transfer_set import ask, shuffled
from defences.defended_classifier import DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Classifier, ClassifierWrapper, Images, Probabilities
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.training.distillation import Distillation
from tests.fakes import FakeClassifier, linear, linear_with_gradients, noise, squares
from tests.students import QUICK, logistic, small

POOL, TEST = squares(300, seed=1), squares(200, seed=2)
SHAPE = (16, 16, 3)
THIEF = CopycatCNN(queries=200, recipe=QUICK, build=small)


@dataclass
class Refuses(ClassifierWrapper):
    """A gateway that answers a row of zeros to images brighter than `limit`."""

    classifier: Classifier
    limit: float
    asked: int = 0

    def predict(self, images: Images) -> Probabilities:
        self.asked += len(images)
        answers = self.classifier.predict(images).copy()
        answers[images[:, 0, 0, 0] > self.limit] = 0
        return answers


@pytest.fixture(scope="module")
def victim(keras_model: object) -> KerasClassifier:
    return KerasClassifier(keras_model, labels=("red", "green", "blue"))


@pytest.mark.parametrize("name", ["labels", "probabilities"])
def test_a_copy_agrees_with_its_victim_on_images_neither_saw(victim: KerasClassifier, name: str) -> None:
    theft = replace(THIEF, thief=THIEVES[name])(victim, POOL.images)
    assert theft.clone.labels == victim.labels
    assert (theft.queries, theft.refused) == (200, 0)
    agrees = theft.clone.predict(TEST.images).argmax(axis=1) == victim.predict(TEST.images).argmax(axis=1)
    assert agrees.mean() > 0.9


def test_the_copy_of_a_linear_victim_finds_its_weights_direction() -> None:
    victim = linear_with_gradients((4, 4, 1), 4)
    recipe = replace(QUICK, epochs=30, learning_rate=0.05)
    theft = CopycatCNN(queries=1500, thief=THIEVES["probabilities"], recipe=recipe, build=logistic)(
        victim, noise(1500, (4, 4, 1), 0)
    )
    kernel = theft.clone.model.get_weights()[0]
    centred = [
        weights - weights.mean(axis=1, keepdims=True) for weights in (kernel, victim.weights)
    ]  # softmax cannot tell a shift
    assert np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1] > 0.98
    unseen = noise(1000, (4, 4, 1), 1)
    assert (theft.clone.predict(unseen).argmax(axis=1) == victim.predict(unseen).argmax(axis=1)).mean() > 0.95


def test_the_same_seed_gives_the_same_copy_and_another_asks_about_other_images(victim: KerasClassifier) -> None:
    thefts = [replace(THIEF, queries=40)(victim, POOL.images, seed=seed) for seed in (5, 5, 6)]
    first, again, other = thefts
    np.testing.assert_array_equal(first.transfer.rows, again.transfer.rows)
    for one, two in zip(first.clone.model.get_weights(), again.clone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(first.transfer.rows) != set(other.transfer.rows)


def test_a_smaller_budget_is_the_beginning_of_a_larger_one() -> None:
    victim = linear(SHAPE, 3)
    large = ask(victim, POOL.images, shuffled(POOL.images, 0)[:200])
    small_one = ask(victim, POOL.images, shuffled(POOL.images, 0)[:50])
    np.testing.assert_array_equal(large.first(50).rows, small_one.rows)
    np.testing.assert_array_equal(large.first(50).answers, small_one.answers)
    assert len(set(large.rows)) == 200, "no image is asked twice"


def test_refused_images_are_counted_and_not_trained_on(victim: KerasClassifier) -> None:
    gateway = Refuses(victim, limit=0.1)
    theft = THIEF(gateway, POOL.images)
    bright = POOL.images[theft.transfer.rows][:, 0, 0, 0] > 0.1
    assert gateway.asked == theft.queries == 200
    assert theft.refused == bright.sum() > 50
    images, answers = theft.transfer.answered()
    np.testing.assert_array_equal(images, POOL.images[theft.transfer.rows[~bright]])
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_a_thief_that_is_always_refused_ends_with_an_untrained_copy() -> None:
    theft = THIEF(Refuses(linear(SHAPE, 3), limit=-1.0), POOL.images, seed=4)
    assert theft.refused == theft.queries == 200
    untrained = Distillation(SHAPE, 3, recipe=QUICK, build=small).untrained(4)
    for one, two in zip(theft.clone.model.get_weights(), untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_asking_a_deterministic_victim_again_tells_nothing_more_and_costs_as_much_again() -> None:
    victim = DefendedClassifier(linear(SHAPE, 3), postprocessors=[Step(ReverseSigmoid())], secret=b"s")
    rows = shuffled(POOL.images, 0)[:30]
    once, thrice = ask(victim, POOL.images, rows), ask(victim, POOL.images, rows, asks=3)
    np.testing.assert_allclose(thrice.answers, once.answers, atol=1e-7)
    assert (once.queries, thrice.queries) == (30, 90)
    np.testing.assert_array_equal(thrice.first(31).rows, rows[:10])


def test_an_answer_given_sometimes_is_the_mean_of_the_answers_given() -> None:
    replies = iter([[0.6, 0.4], [0.0, 0.0], [0.8, 0.2]])
    victim = FakeClassifier(lambda images: np.array([next(replies)] * len(images), np.float32), SHAPE, 2)
    transfer = ask(victim, POOL.images, np.array([7]), asks=3)
    np.testing.assert_allclose(transfer.answers, [[0.7, 0.3]], rtol=1e-6)
    assert (transfer.refusals, transfer.queries) == (1, 3)


def test_shifted_images_are_moved_by_whole_pixels_and_alike_in_any_company() -> None:
    seen: list[Images] = []

    def answer(images: Images) -> Probabilities:
        seen.append(images.copy())
        return np.full((len(images), 2), 0.5, np.float32)

    victim = FakeClassifier(answer, SHAPE, 2)
    ask(victim, POOL.images, np.array([3, 8, 9]), shift=2, seed=1)
    ask(victim, POOL.images, np.array([8]), shift=2, seed=1)
    np.testing.assert_array_equal(seen[0][1], seen[1][0])
    padded = np.pad(POOL.images[8], ((2, 2), (2, 2), (0, 0)), mode="edge")
    moved = [padded[row : row + 16, column : column + 16] for row in range(5) for column in range(5)]
    assert any(np.array_equal(seen[1][0], one) for one in moved)


def test_progress_ends_at_the_budget() -> None:
    told: list[tuple[str, int, int]] = []
    ask(linear(SHAPE, 3), POOL.images, np.arange(300), progress=lambda *report: told.append(report))
    assert told == [("queries", 256, 300), ("queries", 300, 300)]


def test_a_guess_is_made_of_copies_that_did_not_see_the_image(victim: KerasClassifier) -> None:
    transfer = ask(victim, POOL.images, np.arange(60))
    guesses: list[Probabilities] = []

    def remember(answers: Probabilities, guess: Guess) -> Probabilities:
        guesses.append(guess())
        return answers

    thief = Thief(name="curious", targets=remember)
    distillation = Distillation(SHAPE, 3, recipe=QUICK, build=small)
    train_copy(transfer, thief, distillation, seed=0)
    odd = distillation.train(POOL.images[1:60:2], np.eye(3, dtype=np.float32)[transfer.answers[1::2].argmax(axis=1)], seed=0)
    np.testing.assert_allclose(guesses[0][::2], odd.predict(POOL.images[0:60:2], verbose=0), atol=1e-5)


def test_a_pool_that_cannot_be_used_is_refused() -> None:
    victim = linear(SHAPE, 3)
    with pytest.raises(InvalidInput, match=r"expected a budget from 1 to 300 queries.*got 301"):
        replace(THIEF, queries=301)(victim, POOL.images)
    with pytest.raises(InvalidInput, match="got 0"):
        replace(THIEF, queries=0)(victim, POOL.images)
    with pytest.raises(InvalidInput, match="expected at least one image in the thief's pool"):
        THIEF(victim, POOL.images[:0])
    with pytest.raises(InvalidInput, match=r"expected a pool of images \[n, 16, 16, 3\], got \[300, 16, 16, 1\]"):
        THIEF(victim, POOL.images[..., :1])
