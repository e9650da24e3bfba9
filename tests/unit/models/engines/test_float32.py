"""Models that compute in half precision: their gradients are those of the same weights in float32, and their answers stay their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import ProjectedGradientDescent, zero_gradient_share
from attacks.evasion.losses import cross_entropy
from models.engines.keras import KerasClassifier
from models.training.adversarial_step import AdversarialStep
from models.training.fine_tuning import copy_of, fine_tune
from models.training.training_attack import TrainingAttack
from tests.fakes import squares

DATA = squares(60, seed=30)
SHARPNESS = 6.0
EPS = 0.3


@pytest.fixture(scope="module")
def keras(keras_model: Any) -> Any:
    """The module, imported quietly when the model was made."""
    import keras

    return keras


def sharp(keras: Any, keras_model: Any, policy: Any) -> Any:
    """The small network with a head so sure of its answers that float16 has no number as small as its gradients."""
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.models.clone_model(keras_model, clone_function=lambda layer: type(layer).from_config(_with(layer, policy)))
    finally:
        keras.config.set_dtype_policy("float32")
    weights = keras_model.get_weights()
    model.set_weights([*weights[:-2], *(SHARPNESS * weight for weight in weights[-2:])])
    return model


def _with(layer: Any, policy: Any) -> dict[str, Any]:
    config: dict[str, Any] = layer.get_config()
    return config | {"dtype": policy}


@pytest.fixture(scope="module")
def twin(keras: Any, keras_model: Any) -> KerasClassifier:
    return KerasClassifier(sharp(keras, keras_model, "float32"))


@pytest.fixture(scope="module", params=["mixed_float16", "mixed_bfloat16", "float16", "a map of policies"])
def half(request: pytest.FixtureRequest, keras: Any, keras_model: Any) -> KerasClassifier:
    policy = request.param
    if policy == "a map of policies":
        policy = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_float16")
    return KerasClassifier(sharp(keras, keras_model, policy))


def test_gradients_are_those_of_the_float32_twin(half: KerasClassifier, twin: KerasClassifier) -> None:
    found, wanted = (model.loss_gradient(DATA.images, DATA.labels, cross_entropy) for model in (half, twin))
    assert (np.abs(wanted.gradient).reshape(60, -1).max(axis=1) < 6e-8).mean() > 0.2, "float16 holds these gradients: no test"
    scale = np.abs(wanted.gradient).max(axis=(1, 2, 3), keepdims=True)
    stored = (
        0.3 if half.model.weights[0].dtype == "float16" else 1e-3
    )  # weights of 11 bits give logits, and so slopes, of their own
    np.testing.assert_allclose(found.gradient / scale, wanted.gradient / scale, atol=stored)
    assert zero_gradient_share(half, DATA.images, DATA.labels) == 0


def test_an_attack_leaves_as_many_images_right_as_on_the_float32_twin(half: KerasClassifier, twin: KerasClassifier) -> None:
    attack, goal = ProjectedGradientDescent(eps=EPS, iterations=10), Goal(DATA.labels)
    found, wanted = (attack(model, DATA.images, goal).success for model in (half, twin))
    assert wanted.mean() > 0.9
    assert abs(found.mean() - wanted.mean()) <= 0.05


def test_training_judges_robustness_as_on_the_float32_twin(keras: Any, half: KerasClassifier, twin: KerasClassifier) -> None:
    attack = TrainingAttack(eps=EPS, iterations=5)
    robust = []
    for model in (half, twin):
        step = AdversarialStep(model, keras.optimizers.SGD(0.0), attacks=[attack], ratio=1.0, beta=0.0, averaging=0.0)
        robust.append(step.robust(DATA.images, DATA.labels, seed=0))
    assert robust[1] < 0.1
    assert abs(robust[0] - robust[1]) <= 0.05


def test_answers_stay_in_the_models_own_precision(half: KerasClassifier, twin: KerasClassifier) -> None:
    before = half.predict(DATA.images)
    half.loss_gradient(DATA.images, DATA.labels, cross_entropy)
    half.class_gradients(DATA.images[:2])
    half.activation_gradients(DATA.images[:2], None, half.activations(DATA.images[:2]))
    anew = KerasClassifier(half.model)
    np.testing.assert_array_equal(half.predict(DATA.images), before)
    np.testing.assert_array_equal(anew.predict(DATA.images), before)
    assert {layer.compute_dtype for layer in half.model.layers} & {"float16", "bfloat16"}
    assert (before != twin.predict(DATA.images)).any()


def test_gradients_by_activations_are_those_of_the_float32_twin(half: KerasClassifier, twin: KerasClassifier) -> None:
    tiny = np.full_like(twin.activations(DATA.images), 1e-9)
    found, wanted = (model.activation_gradients(DATA.images, None, tiny) for model in (half, twin))
    assert wanted.any(axis=(1, 2, 3)).all()
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_threads_that_ask_for_the_first_gradient_at_once_leave_the_policies_as_they_were(keras: Any, keras_model: Any) -> None:
    model = sharp(keras, keras_model, "mixed_float16")
    classifiers = [KerasClassifier(model) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda one: one.loss_gradient(DATA.images[:8], DATA.labels[:8], cross_entropy).gradient, classifiers)
        )
    for gradient in found[1:]:
        largest = np.abs(found[0]).max(axis=(1, 2, 3), keepdims=True)
        np.testing.assert_allclose(gradient / largest, found[0] / largest, atol=1e-3)
    assert {layer.compute_dtype for layer in model.layers} == {"float16"}


def test_a_copy_trained_further_learns_in_float32_and_answers_in_half(
    keras: Any, keras_model: Any, twin: KerasClassifier
) -> None:
    half = KerasClassifier(sharp(keras, keras_model, "mixed_float16"))
    flipped = squares(120, seed=31)
    flipped = type(flipped)(flipped.images, (flipped.labels + 1) % 3)
    ours, theirs = (fine_tune(copy_of(model), flipped, epochs=1, seed=1) for model in (half, twin))
    for weight, other in zip(ours.model.get_weights(), theirs.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=2e-3)
    assert {layer.compute_dtype for layer in ours.model.layers} == {"float16"}


@pytest.mark.parametrize("gap", [50.0, 120.0, 1e4, 1e6])
def test_a_softmax_however_sure_leaves_a_gradient_to_follow(keras: Any, gap: float) -> None:
    model = keras.Sequential([keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    model.layers[-1].set_weights([np.array([[gap, -gap], [0.0, gap / 2]]), np.zeros(2)])
    images, labels = np.array([[[[0.9], [0.1]]]], np.float32), np.zeros(1, np.int64)
    out = KerasClassifier(model).loss_gradient(images, labels, cross_entropy)
    first, second = out.gradient.ravel()
    assert first < 0 < second
    np.testing.assert_allclose(first / second, -4, rtol=1e-3)
