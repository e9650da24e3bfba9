"""Training: reproducible, refuses what it cannot use, saves no optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.training.reference_classifier import Recipe, reference_network, robust_network, save, train
from tests.fakes import noise, squares

DATA = squares(96, seed=0)
RECIPE = Recipe(epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def trained(keras_model: Any) -> Any:
    return train(DATA, recipe=RECIPE)


def test_the_same_seed_and_data_give_the_same_weights(trained: Any) -> None:
    losses: list[tuple[int, float]] = []
    again = train(DATA, recipe=RECIPE, on_epoch=lambda epoch, loss: losses.append((epoch, loss)))
    for one, other in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [epoch for epoch, _ in losses] == [1, 2]
    assert all(np.isfinite(loss) for _, loss in losses)


def test_another_seed_gives_other_weights(trained: Any) -> None:
    other = train(DATA, recipe=Recipe(epochs=1, batch_size=32, seed=1))
    assert np.abs(trained.get_weights()[0] - other.get_weights()[0]).max() > 1e-3


def test_the_network_has_a_class_for_every_label_and_answers_distributions(trained: Any) -> None:
    probabilities = KerasClassifier(trained).predict(DATA.images)
    assert probabilities.shape == (96, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_saved_model_has_no_optimiser_and_answers_as_before(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.keras"
    save(trained, path)
    assert path.stat().st_size < 6 * trained.count_params()  # float32 weights, without the two moments of Adam
    loaded = KerasClassifier.load(path)
    np.testing.assert_allclose(loaded.predict(DATA.images), KerasClassifier(trained).predict(DATA.images), atol=1e-6)


def test_the_reference_network_is_as_small_as_its_documentation_says(keras_model: Any) -> None:
    assert reference_network((28, 28, 1), 10).count_params() == pytest.approx(109_000, rel=0.01)


@pytest.mark.parametrize("recipe", [{"epochs": 0}, {"batch_size": 0}, {"epochs": -1}])
def test_a_recipe_that_trains_nothing_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"expected {next(iter(recipe))} >= 1"):
        Recipe(**recipe)


def test_images_too_small_for_the_reference_network_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 12 x 12"):
        train(Dataset(noise(4, (11, 16, 1), 0), np.arange(4)), recipe=RECIPE)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        train(Dataset(noise(4, (16, 16, 1), 0), np.zeros(4, np.int64)), recipe=RECIPE)


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3, 0.5])
def test_the_level_of_the_robust_network_is_steep_where_it_should_be_and_flat_nowhere(keras_model: Any, eps: float) -> None:
    x = np.linspace(0, 1, 101, dtype=np.float32)
    network = robust_network((12, 12, 3), 2, eps)
    level = np.broadcast_to(x[:, None, None, None], (101, 12, 12, 3))
    for name in ("ramps", "level"):
        level = np.asarray(network.get_layer(name)(level))
    low = min(4 / 3 * eps, 0.45)
    np.testing.assert_allclose(level[:, 5, 5, 1], np.clip((x - low) / (1 - 2 * low), 0, 1) + x / 50, atol=1e-5)
    assert (np.diff(level[:, 0, 0, 2]) > 0).all()


def test_training_leaves_the_level_of_the_robust_network_alone(keras_model: Any) -> None:
    network = robust_network((12, 12, 1), 3, 0.3)
    assert {weight.path.split("/")[-2] for weight in network.trainable_variables}.isdisjoint({"ramps", "level"})
    assert robust_network((28, 28, 1), 10, 0.3).count_params() == pytest.approx(322_000, rel=0.01)
