"""The compiled network against Keras, a closed form and TensorFlow's own gradients; its ROC against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evaluation.statistics.roc import auroc
from models.engines.binary_network import BinaryNetwork, default_layout
from models.training.binary_training import assign, keras_network, train_binary_network
from tests.fakes import noise
from tests.property.strategies import random_weights

LAYOUTS: dict[str, tuple[tuple[int, int, int], Any]] = {
    "digits": ((28, 28, 1), default_layout((28, 28, 1))),
    "colours": ((32, 20, 3), default_layout((32, 20, 3))),
    "a vector": ((1, 1, 30), default_layout((1, 1, 30))),
    "odd kernels and strides": ((11, 9, 2), np.array([[4, 2, 3, 2, 5], [1, 3, 1, 5, 4], [3, 1, 2, 4, 1]])),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_and_gradients_are_those_of_keras(name: str) -> None:
    shape, layout = LAYOUTS[name]
    network = BinaryNetwork(weights=random_weights(layout), layout=layout, input_shape=shape)
    model = keras_network(layout, shape)
    import tensorflow as tf

    assign(model, network)
    inputs = noise(6, shape, 1) - np.float32(0.2)  # the first layer's input is not rectified
    with tf.GradientTape() as tape:
        watched = tf.constant(inputs)
        tape.watch(watched)
        expected = model(watched)[:, 0]
    logits, gradients = network.gradients(inputs)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(logits, network.logits(inputs))
    np.testing.assert_allclose(gradients, tape.gradient(expected, watched).numpy(), rtol=1e-3, atol=1e-5)


def test_one_layer_is_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5)).astype(np.float32)
    answers = features @ np.array([1.0, -2.0, 0.5, 0.0, 1.0]) + rng.normal(size=400) > 0
    fitted = LogisticRegression().fit(features, answers)
    weights = np.concatenate([fitted.coef_[0], fitted.intercept_]).astype(np.float32)
    network = BinaryNetwork(weights=weights, layout=np.array([[1, 1, 1, 5, 1]]), input_shape=(1, 1, 5))
    np.testing.assert_allclose(network.logits(features), fitted.decision_function(features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.gradients(features)[1], np.tile(weights[:5], (400, 1)))


def test_a_trained_network_finds_the_boundary_that_there_is_and_its_roc_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    no, yes = (rng.normal(loc=at, size=(600, 8)).astype(np.float32) * 40 + 300 for at in (0.0, 0.9))
    network = train_binary_network([no], [yes], seed=3, epochs=12)
    unseen = [rng.normal(loc=at, size=(2000, 8)).astype(np.float32) * 40 + 300 for at in (0.0, 0.9)]
    negatives, positives = (-network.logits(rows) for rows in unseen)
    truth = np.repeat([0, 1], 2000)
    found = roc_auc_score(truth, -np.concatenate([negatives, positives]))
    assert auroc(positives, negatives).value == pytest.approx(found, abs=1e-9)
    # Of two normal distributions a distance d apart, the best there is has area Phi(d / sqrt(2)): d = 0.9 sqrt(8) gives 0.964.
    assert 0.955 < found < 0.975
    assert abs(((positives < 0).mean() + (negatives > 0).mean()) / 2 - 0.898) < 0.02  # and Phi(d / 2) at its threshold
