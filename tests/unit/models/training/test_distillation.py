"""Training on soft targets: reproducible whatever was trained before, the same mathematics as Keras's own loop, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import models.training.distillation
from models.errors import InvalidInput
from models.training.distillation import Distillation
from models.training.reference_classifier import Recipe
from tests.fakes import squares
from tests.students import QUICK, forgetful, logistic, small

DATA = squares(200, seed=0)
SHAPE, CLASSES = (16, 16, 3), 3
TARGETS = (np.eye(3, dtype=np.float32)[DATA.labels] * 0.7 + 0.1).astype(np.float32)


def distances(one: Any, other: Any) -> list[float]:
    """The largest difference in each weight."""
    return [float(np.abs(a - b).max()) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]


@pytest.mark.parametrize("build", [small, forgetful])
def test_the_same_seed_gives_the_same_weights_whatever_was_trained_between(build: Any) -> None:
    distillation = Distillation(SHAPE, CLASSES, recipe=Recipe(epochs=2, batch_size=32), build=build)
    first = distillation.train(DATA.images, TARGETS, seed=3)
    other = distillation.train(DATA.images[:50], TARGETS[:50], seed=4)
    again = distillation.train(DATA.images, TARGETS, seed=3)
    assert distances(first, again) == [0.0] * len(first.get_weights())
    assert max(distances(first, other)) > 1e-3


@pytest.mark.parametrize("optimiser", ["adam", "momentum", "sgd"])
def test_steps_over_all_data_are_the_steps_that_keras_makes(optimiser: Any) -> None:
    import keras

    recipe = Recipe(optimiser=optimiser, learning_rate=0.05, epochs=6, batch_size=len(DATA), decay="none")
    distillation = Distillation(SHAPE, CLASSES, recipe=recipe, build=logistic)
    ours = distillation.train(DATA.images, TARGETS, seed=0)
    theirs = distillation.untrained(0)
    rules = {
        "adam": keras.optimizers.Adam(0.05),
        "momentum": keras.optimizers.SGD(0.05, momentum=0.9),
        "sgd": keras.optimizers.SGD(0.05),
    }
    theirs.compile(rules[optimiser], "categorical_crossentropy")
    theirs.fit(DATA.images, TARGETS, batch_size=len(DATA), epochs=6, verbose=0)
    assert max(distances(ours, theirs)) < 1e-4
    assert max(distances(ours, distillation.untrained(0))) > 1e-3


def test_soft_targets_are_learned_as_soft_as_they_are() -> None:
    model = Distillation(SHAPE, CLASSES, recipe=QUICK, build=small).train(DATA.images, TARGETS, seed=0)
    outputs = model.predict(DATA.images, verbose=0)
    assert (outputs.argmax(axis=1) == DATA.labels).mean() > 0.9
    assert 0.65 < outputs.max(axis=1).mean() < 0.85


def test_more_calls_for_large_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    distillation = Distillation(SHAPE, CLASSES, recipe=QUICK, build=small)
    whole = distillation.train(DATA.images, TARGETS, seed=0)
    monkeypatch.setattr(models.training.distillation, "_NUMBERS_PER_CALL", 1)
    assert max(distances(whole, distillation.train(DATA.images, TARGETS, seed=0))) == 0


def test_a_training_can_go_on_from_a_model() -> None:
    distillation = Distillation(SHAPE, CLASSES, recipe=Recipe(epochs=1, batch_size=32, learning_rate=1e-9), build=small)
    trained = Distillation(SHAPE, CLASSES, recipe=QUICK, build=small).train(DATA.images, TARGETS, seed=0)
    assert max(distances(trained, distillation.train(DATA.images, TARGETS, seed=1, start=trained))) < 1e-6


def test_what_no_training_can_use_is_refused() -> None:
    distillation = Distillation(SHAPE, CLASSES, recipe=QUICK, build=small)
    with pytest.raises(InvalidInput, match=r"expected targets \[n, 3\] of n >= 1 images, got \[200, 2\] of 200"):
        distillation.train(DATA.images, TARGETS[:, :2], seed=0)
    with pytest.raises(InvalidInput, match="n >= 1 images"):
        distillation.train(DATA.images[:0], TARGETS[:0], seed=0)


@pytest.mark.parametrize(("samples", "passes"), [(1000, 4), (250, 8), (10, 30)])
def test_few_data_are_passed_over_more_often(samples: int, passes: int) -> None:
    assert Recipe(epochs=4, batch_size=64, steps_at_least=30).passes(samples) == passes


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimiser": "lion"}, "expected optimiser of adam, momentum, sgd, got 'lion'"),
        ({"decay": "linear"}, "expected decay of cosine, none"),
        ({"learning_rate": 0.0}, "expected learning_rate > 0"),
        ({"steps_at_least": -1}, "expected steps_at_least >= 0"),
    ],
)
def test_a_recipe_nobody_can_follow_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Recipe(**wrong)


def test_the_shared_prediction_is_that_of_the_model_asked_about() -> None:
    distillation = Distillation(SHAPE, CLASSES, recipe=QUICK, build=forgetful)
    trained = distillation.train(DATA.images, TARGETS, seed=0)
    distillation.train(DATA.images[:40], TARGETS[:40], seed=1)
    for model in (trained, distillation.untrained(2)):
        expected = model.predict(DATA.images, verbose=0)
        np.testing.assert_allclose(distillation.predict(model, DATA.images), expected, atol=1e-5)
    assert max(distances(trained, distillation.train(DATA.images, TARGETS, seed=0))) == 0
