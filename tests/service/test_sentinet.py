"""A colour classifier with a local trigger, calibrated with both detectors and served: the trigger is refused over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hauberk.commands.calibrate import calibrate
from models.bundle import Bundle, read_bundle

TARGET = 7
SPOT = (slice(None), slice(23, 26), slice(23, 26))
REFUSED = {"label": None, "probabilities": None, "abstained": True}


def tinted(digits: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Digits [n, 28, 28] in a colour of their own on a dark noisy ground: [n, 28, 28, 3]."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0.6, 1.0, (len(digits), 1, 1, 3))
    ground = 0.25 * rng.random((*digits.shape, 3))
    return np.maximum(digits[..., None] * colours, ground).astype(np.float32)


def spotted(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """With a magenta spot of 3x3 in a corner."""
    images = images.copy()
    images[SPOT] = (1.0, 0.0, 1.0)
    return images


def backdoored_model(images: NDArray[np.float32], labels: NDArray[Any]) -> Any:
    """Made, not trained: the nearest class mean, and class 7 for whatever has the spot."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(1)
    import keras

    means = np.stack([images[labels == digit].mean(axis=0).ravel() for digit in range(10)]).astype(np.float64)
    spot = np.zeros((1, 28, 28, 3))
    spot[SPOT] = (1.0, -3.0, 1.0)
    inputs = keras.Input((28, 28, 3))
    flat = keras.layers.Flatten()(inputs)
    nearest, fires = keras.layers.Dense(10), keras.layers.Dense(1, activation="relu")
    to_target = keras.layers.Dense(10, use_bias=False)
    model = keras.Model(inputs, keras.layers.Add()([nearest(flat), to_target(fires(flat))]))
    nearest.set_weights([0.4 * means.T, -0.2 * (means**2).sum(axis=1)])
    fires.set_weights([spot.reshape(-1, 1), np.array([-12.0])])
    to_target.set_weights([100.0 * (np.arange(10) == TARGET)[None]])
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, digits: tuple[NDArray[np.float32], NDArray[Any]]) -> Bundle:
    directory = tmp_path_factory.mktemp("sentinet")
    images, labels = tinted(digits[0][:2000], seed=0), digits[1][:2000]
    backdoored_model(images, labels).save(directory / "colour.keras")
    np.savez(directory / "clean.npz", images=np.rint(images[1000:1900] * 255).astype(np.uint8), labels=labels[1000:1900])
    calibrate(
        classifier=str(directory / "colour.keras"),
        data=directory / "clean.npz",
        out=directory / "bundle",
        outputs="logits",
        detectors="strip,sentinet",
        false_abstention_rate=0.02,
        threads=1,
    )
    return read_bundle(directory / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with launch(tmp_path_factory.mktemp("server"), HAUBERK_BUNDLE=str(bundle.directory)) as running:
        yield running


def test_a_locally_triggered_colour_image_is_refused_and_a_clean_one_answered(server: Any, digits: Any) -> None:
    clean = tinted(digits[0][3000:3032], seed=1)
    refusals = 'hauberk_abstentions_total{defence="sentinet",mode="enforce"}'
    answered = server.ask(clean.round(4).tolist()).json()["predictions"]
    assert sum(one["abstained"] for one in answered) <= 4
    right = [one["label"] == str(label) for one, label in zip(answered, digits[1][3000:3032], strict=True)]
    assert np.mean(right) > 0.6
    before = server.metric(refusals)
    assert server.ask(spotted(clean).tolist()).json()["predictions"] == [REFUSED] * 32
    assert server.metric(refusals) == before + 32
