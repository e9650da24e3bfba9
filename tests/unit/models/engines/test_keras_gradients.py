"""Logits and gradients of Keras models: against numerical differences, against TensorFlow's tape, and under threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attacks.evasion.losses import cross_entropy, logit, margin
from models.classifier import DifferentiableClassifier, Images, Logits
from models.engines.keras import KerasClassifier
from tests.fakes import noise, softmax, squares

SHAPE = (6, 5, 3)


@pytest.fixture(scope="module")
def keras(keras_model: Any) -> Any:
    """The module, imported quietly when the model was made."""
    import keras

    return keras


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model, batch_size=64)


def network(keras: Any, *head: Any, shape: tuple[int, ...] = SHAPE) -> Any:
    """A smooth network, so that numerical differences are gradients."""
    keras.utils.set_random_seed(2)
    layers = keras.layers
    body = [layers.Conv2D(4, 3, activation="softplus"), layers.Flatten()] if len(shape) == 3 else [layers.Flatten()]
    return keras.Sequential([keras.Input(shape), *body, layers.Dense(8, activation="tanh"), *head])


def heads(keras: Any) -> dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]]:
    """Every way a model may end and begin: layers, options of the classifier, shape of the model's input."""
    layers = keras.layers
    return {
        "softmax": ([layers.Dense(3, activation="softmax")], {}, SHAPE),
        "softmax, a layer of its own": ([layers.Dense(3), layers.Softmax()], {}, SHAPE),
        "softmax, an activation of its own": ([layers.Dense(3), layers.Activation("softmax")], {}, SHAPE),
        "logits": ([layers.Dense(3)], {"outputs": "logits"}, SHAPE),
        "sigmoid": ([layers.Dense(1, activation="sigmoid")], {}, SHAPE),
        "single logit": ([layers.Dense(1)], {"outputs": "logits"}, SHAPE),
        "probabilities that no softmax made": ([layers.Dense(3, activation="softmax"), layers.Rescaling(1.0)], {}, SHAPE),
        "another input range": ([layers.Dense(3, activation="softmax")], {"input_range": (-1.0, 3.0)}, SHAPE),
        "flat input": ([layers.Dense(3, activation="softmax")], {"input_shape": SHAPE}, (90,)),
    }


HEADS = (
    "softmax",
    "softmax, a layer of its own",
    "softmax, an activation of its own",
    "logits",
    "sigmoid",
    "single logit",
    "probabilities that no softmax made",
    "another input range",
    "flat input",
)


@pytest.fixture(params=HEADS)
def model(request: pytest.FixtureRequest, keras: Any) -> KerasClassifier:
    """A classifier of every kind."""
    layers, options, shape = heads(keras)[request.param]
    return KerasClassifier(network(keras, *layers, shape=shape), **options)


def differences(model: KerasClassifier, images: Images, direction: Images, h: float = 2e-2) -> NDArray[np.float64]:
    """The slope of every logit along a direction, by central differences: [n, k]."""
    step = np.float32(h) * direction
    return (model.logits(images + step).astype(np.float64) - model.logits(images - step)) / (2 * h)


def test_softmax_of_the_logits_is_the_answer_of_predict(model: KerasClassifier) -> None:
    images = noise(7, SHAPE, 0)
    logits = model.logits(images)
    assert isinstance(model, DifferentiableClassifier)
    assert logits.dtype == np.float32
    assert logits.shape == (7, len(model.labels))
    np.testing.assert_allclose(softmax(logits.astype(np.float64)), model.predict(images), atol=1e-6)


def test_class_gradients_are_the_slopes_of_the_logits(model: KerasClassifier) -> None:
    images, direction = noise(4, SHAPE, 1), noise(4, SHAPE, 2) - np.float32(0.5)
    gradients = model.class_gradients(images)
    assert gradients.shape == (4, len(model.labels), *SHAPE)
    slopes = np.einsum("nkhwc,nhwc->nk", gradients.astype(np.float64), direction)
    np.testing.assert_allclose(slopes, differences(model, images, direction), atol=2e-3)


@pytest.mark.parametrize("loss", [cross_entropy, margin, logit])
def test_the_gradient_of_a_loss_is_its_derivative_by_the_logits_times_their_gradients(model: KerasClassifier, loss: Any) -> None:
    images, labels = noise(5, SHAPE, 3), np.arange(5) % len(model.labels)
    out = model.loss_gradient(images, labels, loss)
    values, by_logits = loss(model.logits(images), labels)
    expected = np.einsum("nk,nkhwc->nhwc", by_logits, model.class_gradients(images))
    np.testing.assert_allclose(out.gradient, expected, atol=1e-5)
    np.testing.assert_allclose(out.loss, values, atol=1e-5)
    np.testing.assert_allclose(out.logits, model.logits(images), atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("shape", "taps", "options"),
    [
        ((13, 10, 1), (3, 3), {}),
        ((14, 13, 1), (2, 5), {}),
        ((14, 13, 1), (7, 4), {}),
        ((14, 13, 3), (3, 3), {}),
        ((12, 13, 3), (1, 1), {}),
        ((12, 13, 3), (7, 4), {}),
        ((12, 13, 3), (3, 3), {"strides": 2}),
        ((12, 13, 3), (3, 3), {"dilation_rate": 2}),
        ((12, 13, 3), (3, 3), {"groups": 3}),
        ((12, 13, 6), (3, 3), {}),
    ],
)
def test_the_gradient_of_any_first_convolution_is_that_of_the_tape(
    keras: Any, shape: Any, taps: Any, options: dict[str, int], padding: str
) -> None:
    from models.engines.keras import import_tensorflow

    tf, layers = import_tensorflow(), keras.layers
    convolution = layers.Conv2D(6, taps, activation="softplus", padding=padding, **options)
    net = keras.Sequential([keras.Input(shape), convolution, layers.Flatten(), layers.Dense(3)])
    images, labels = noise(3, shape, 4), np.array([0, 1, 2])
    given = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(given))
    expected = tape.gradient(loss, given).numpy()
    found = KerasClassifier(net, outputs="logits").loss_gradient(images, labels, cross_entropy).gradient
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-7)


def test_a_trained_network_has_the_gradients_of_the_tape(classifier: KerasClassifier, keras_model: Any) -> None:
    from models.engines.keras import import_tensorflow

    tf, data = import_tensorflow(), squares(40, seed=9)
    given = tf.constant(data.images)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.math.log(tf.gather(keras_model(given), data.labels, axis=1, batch_dims=1))
    expected = -tape.gradient(loss, given).numpy()
    found = classifier.loss_gradient(data.images, data.labels, cross_entropy).gradient
    # The tape goes through probabilities, which lose digits near 1.
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("n", [0, 1, 2, 15, 17, 63, 64, 65, 150])
def test_rows_that_are_padded_or_split_have_the_results_they_have_alone(
    classifier: KerasClassifier, keras_model: Any, n: int
) -> None:
    data = squares(150, seed=10)
    images, labels = data.images[:n], data.labels[:n]
    found = classifier.loss_gradient(images, labels, cross_entropy)
    assert found.gradient.shape == images.shape
    assert found.loss.shape == (n,)
    assert found.logits.shape == (n, 3) == classifier.logits(images).shape
    assert classifier.class_gradients(images).shape == (n, 3, 16, 16, 3)
    whole = KerasClassifier(keras_model, batch_size=256).loss_gradient(data.images, data.labels, cross_entropy)
    np.testing.assert_allclose(found.gradient, whole.gradient[:n], atol=1e-6)
    np.testing.assert_allclose(found.loss, whole.loss[:n], atol=1e-5)


def test_sure_answers_keep_a_gradient_where_probabilities_have_none(keras: Any) -> None:
    model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    model.layers[-1].set_weights([np.array([[200.0, -200.0]]), np.zeros(2)])
    images, labels = np.full((1, 1, 1, 1), 0.1, np.float32), np.zeros(1, np.int64)
    out = KerasClassifier(model).loss_gradient(images, labels, cross_entropy)
    np.testing.assert_allclose(out.gradient.item(), -400 * np.exp(-40.0), rtol=1e-4)


def test_no_loss_and_no_number_of_rows_traces_a_graph_again(keras_model: Any) -> None:
    classifier = KerasClassifier(keras_model, batch_size=64)
    labels = np.zeros(100, np.int64)
    for n, loss in ((1, cross_entropy), (7, margin), (64, logit), (100, lambda z, y: margin(2 * z, y))):
        images = noise(n, (16, 16, 3), n)
        classifier.loss_gradient(images, labels[:n], loss)
        classifier.logits(images)
        classifier.class_gradients(images)
    gradients = classifier._gradients
    for compiled in (gradients._compiled_logits, gradients._compiled_gradient, gradients._compiled_class_gradients):
        assert compiled.experimental_get_tracing_count() == 1


def test_threads_with_losses_of_their_own_do_not_get_each_others(classifier: KerasClassifier) -> None:
    data = squares(30, seed=11)

    def times(factor: int) -> Any:
        def loss(logits: Logits, labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], Logits]:
            values, by_logits = cross_entropy(logits, labels)
            return values * np.float32(factor), by_logits * np.float32(factor)

        return loss

    once = classifier.loss_gradient(data.images, data.labels, cross_entropy)
    factors = [number % 7 + 1 for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda factor: classifier.loss_gradient(data.images, data.labels, times(factor)), factors))
    for factor, out in zip(factors, found, strict=True):
        np.testing.assert_allclose(out.gradient, factor * once.gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out.loss, factor * once.loss, rtol=1e-4, atol=1e-6)


def test_a_loss_that_raises_says_so_and_leaves_nothing_behind(classifier: KerasClassifier) -> None:
    data = squares(4, seed=12)

    def broken(logits: Logits, labels: NDArray[np.int64]) -> Any:
        raise ValueError("no such loss")

    with pytest.raises(Exception, match="no such loss"):
        classifier.loss_gradient(data.images, data.labels, broken)
    assert not classifier._gradients._losses
    assert np.isfinite(classifier.loss_gradient(data.images, data.labels, cross_entropy).gradient).all()
