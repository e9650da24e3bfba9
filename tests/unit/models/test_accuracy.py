"""Is a classifier as right as it ought to be: mistakes are found and named, and what is no mistake is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.accuracy import LOOKED_AT, drawn, judge, judge_answers
from models.classifier import Images, Probabilities
from models.datasets import Dataset
from models.errors import InvalidInput
from models.preparation import Preparation

CLASSES = 5
SHAPE = (6, 6, 3)
# Classes of different brightness and colour, so that a shift, a stretch and an exchange of channels all mislead.
_COLOURS = np.random.default_rng(6).uniform(0.2, 1.2, (CLASSES, 1, 1, 3))
_MEANS = (np.random.default_rng(7).uniform(0.4, 0.8, (CLASSES, *SHAPE)) * _COLOURS).astype(np.float32)


def blobs(n: int, *, seed: int = 0, spread: float = 0.2, classes: int = CLASSES) -> Dataset:
    """Images around the means of their classes: the nearest mean is right on nearly all."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return Dataset(np.clip(_MEANS[labels] + rng.normal(0, spread, (n, *SHAPE)), 0, 1).astype(np.float32), labels)


def one_hot(answers: NDArray[np.int64]) -> Probabilities:
    rows: Probabilities = np.eye(CLASSES, dtype=np.float32)[answers]
    return rows


@dataclass
class Trained:
    """The nearest mean, of a model that was trained on images which `prepared` prepares, and is given them by `preparation`."""

    prepared: Any = np.asarray
    preparation: Preparation = field(default_factory=Preparation)
    order: NDArray[np.int64] = field(default_factory=lambda: np.arange(CLASSES))
    input_shape: tuple[int, int, int] = SHAPE
    calls: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(CLASSES)))

    def predict(self, images: Images) -> Probabilities:
        self.calls += len(images)
        given = self.preparation.apply(images).reshape(len(images), -1)
        means = self.prepared(_MEANS).reshape(CLASSES, -1)
        nearest = ((given[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        return one_hot(self.order[nearest])


def test_a_classifier_that_is_right_is_fine_and_asked_once_about_each_image() -> None:
    classifier = Trained()
    found = judge(classifier, blobs(600))
    assert (found.verdict, found.reason, found.cause) == ("fine", "", None)
    assert found.low <= found.rate <= found.high
    assert classifier.calls == found.images == 600


def test_of_many_images_some_are_drawn_from_all_of_them_the_same_each_time() -> None:
    rows = drawn(50_000)
    assert len(rows) == LOOKED_AT == len(set(rows.tolist()))
    assert rows.max() > 49_000
    np.testing.assert_array_equal(rows, drawn(50_000))
    np.testing.assert_array_equal(drawn(10), np.arange(10))


@pytest.mark.parametrize("seed", range(5))
def test_labels_in_another_order_are_guessing_and_the_order_is_named(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(CLASSES)
    while (order == np.arange(CLASSES)).any():
        order = np.roll(order, 1)
    found = judge(Trained(order=order), blobs(400, seed=seed))
    assert (found.verdict, found.cause) == ("guessing", "classes in another order")
    assert f"it answers 0 for {int(np.flatnonzero(order == 0)[0])}, " in found.reason
    assert "of those held out from finding the order" in found.reason
    with pytest.raises(InvalidInput, match="always answering the most frequent class is right on"):
        found.better_than_guessing()


def test_two_classes_exchanged_are_doubtful_and_named_and_no_error() -> None:
    found = judge(Trained(order=np.array([0, 1, 3, 2, 4])), blobs(500)).better_than_guessing()
    assert (found.verdict, found.cause) == ("doubtful", "classes in another order")
    assert "(it answers 2 for 3, 3 for 2)" in found.reason


PREPARED: dict[str, tuple[Any, str]] = {
    "bytes": (lambda images: images * 255, "say --input-range=0,255"),
    "around zero": (lambda images: images * 2 - 1, "say --input-range=-1,1"),
    "standardised": (lambda images: (images - 0.5) / 0.25, "of those held out from choosing the reading; say --"),
    "ImageNet": (
        lambda images: (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
        "say --preset=torch",
    ),
    "BGR": (lambda images: images[..., ::-1], "say --channels=bgr"),
    "inverted": (lambda images: 1 - images, "say --input-range=1,0"),
}


@pytest.mark.parametrize("how", PREPARED)
def test_images_that_the_model_reads_otherwise_are_found_out(how: str) -> None:
    prepared, sentence = PREPARED[how]
    found = judge(Trained(prepared), blobs(500))
    assert found.verdict in ("guessing", "doubtful")
    assert found.cause == "images read otherwise"
    assert sentence in found.reason


def test_a_wrong_range_that_was_given_is_found_out_too_and_the_right_one_is_not() -> None:
    found = judge(Trained(preparation=Preparation.of_range(0, 255)), blobs(500))
    assert "say --input-range=0,1" in found.reason
    assert judge(Trained(PREPARED["bytes"][0], preparation=Preparation.of_range(0, 255)), blobs(500)).verdict == "fine"


def test_where_there_is_no_range_to_give_none_is_tried() -> None:
    classifier = Trained(PREPARED["bytes"][0])
    found = judge(classifier, blobs(500), advice=None)
    assert classifier.calls == 500
    assert "range" not in found.reason


def test_a_model_of_other_data_is_guessing_and_nothing_explains_it() -> None:
    data = blobs(500)
    found = judge(Trained(), Dataset(data.images, np.random.default_rng(0).permutation(data.labels)))
    assert (found.verdict, found.cause) == ("guessing", None)
    assert "is it the classifier of these data?" in found.reason


def test_a_model_far_below_the_nearest_image_is_doubtful() -> None:
    careless = Trained()
    data = blobs(600)
    answers = careless.predict(data.images).argmax(axis=1)
    answers[::3] = np.random.default_rng(0).integers(0, CLASSES, 200)

    class Careless(Trained):
        def predict(self, images: Images) -> Probabilities:
            return one_hot(answers)

    found = judge(Careless(), data, advice=None)
    assert (found.verdict, found.cause) == ("doubtful", "a simple rule does better")
    assert "learned from one half of them, is right on" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_small_and_hard_data_raise_no_false_alarm(seed: int) -> None:
    for n in (5, 20, 30, 60, 200):
        for spread in (0.1, 0.6):
            data = blobs(n, seed=seed, spread=spread)
            assert judge(Trained(), data).verdict in ("fine", "too few images")


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("learned", [True, False])
def test_poisoned_labels_raise_no_alarm_whether_the_model_learned_them_or_not(rate: float, learned: bool) -> None:
    data = blobs(800, seed=3)
    rng = np.random.default_rng(4)
    poisoned = rng.random(800) < rate
    labels = np.where(poisoned, 2, data.labels)
    answers = np.where(poisoned & learned, 2, data.labels)
    assert judge_answers(labels, answers, CLASSES).verdict == "fine"
    images = data.images.copy()
    images[poisoned, :2, :2] = 1
    if learned:
        assert judge(_answering(answers), Dataset(images, labels)).verdict == "fine"


def _answering(answers: NDArray[np.int64]) -> Any:
    class Answering(Trained):
        def predict(self, images: Images) -> Probabilities:
            return one_hot(answers[: len(images)])

    return Answering()


def test_one_class_only_is_compared_with_a_guess_among_all() -> None:
    labels = np.full(100, 3)
    assert judge_answers(labels, labels, CLASSES).guessing == 1 / CLASSES
    assert judge_answers(labels, labels, CLASSES).verdict == "fine"
    assert judge_answers(labels, np.full(100, 1), CLASSES).verdict == "guessing"


def test_a_classifier_of_rare_classes_that_knows_them_does_not_guess_although_a_constant_answer_is_right_more_often() -> None:
    labels = np.r_[np.zeros(900, np.int64), np.ones(100, np.int64)]
    answers = labels.copy()
    answers[:150] = 1  # finds every rare one, and takes 150 others for one
    found = judge_answers(labels, answers, 2)
    assert found.rate < found.guessing
    assert found.verdict == "doubtful"
    assert judge_answers(labels, np.zeros(1000, np.int64), 2).verdict == "guessing"


def test_the_interval_decides_at_the_edge_of_guessing() -> None:
    labels = np.arange(100) % 2
    barely = np.where(np.arange(100) < 60, labels, 1 - labels)
    assert judge_answers(labels, barely, 2).verdict == "too few images"  # 60 of 100: nobody knows
    assert judge_answers(np.tile(labels, 10), np.tile(barely, 10), 2).verdict == "fine"  # 600 of 1,000 are better than a coin
