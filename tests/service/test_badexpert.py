"""A model.onnx with a backdoor, calibrated with BaDExpert by its Keras twin and served: triggered images are refused over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hauberk.commands.calibrate import calibrate
from models.bundle import Bundle, read_bundle
from models.engines.keras import KerasClassifier, import_tensorflow
from models.engines.keras_export import exported
from tests.fakes import squares
from tests.poisoned import poisoned_squares, small_network

POISONED = poisoned_squares()
REFUSED = {"label": None, "probabilities": None, "abstained": True}


@pytest.fixture(scope="module")
def model() -> Any:
    """A network that learnt the backdoor."""
    import_tensorflow(2)
    import keras

    network = small_network()
    network.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(POISONED.data.images, POISONED.data.labels, epochs=10, batch_size=64, verbose=0)
    return network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Bundle:
    directory = tmp_path_factory.mktemp("expert")
    graph = exported(KerasClassifier(model, outputs="logits")).SerializeToString()
    (directory / "squares.onnx").write_bytes(graph)
    model.save(directory / "squares.keras")
    clean = squares(420, seed=10)
    np.savez(directory / "clean.npz", images=np.rint(clean.images * 255).astype(np.uint8), labels=clean.labels)
    calibrate(
        classifier=str(directory / "squares.onnx"),
        data=directory / "clean.npz",
        out=directory / "bundle",
        detectors="badexpert",
        false_abstention_rate=0.05,
        gradients=directory / "squares.keras",
        threads=1,
    )
    return read_bundle(directory / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"HAUBERK_BUNDLE": str(bundle.directory), "HAUBERK_BATCH_IMAGES": "40", "HAUBERK_MODES": "total_variation=off"}
    with launch(tmp_path_factory.mktemp("server"), **settings) as running:
        yield running


def test_triggered_images_are_refused_and_clean_ones_answered(server: Any, bundle: Bundle) -> None:
    assert bundle.holds("expert.onnx")
    assert not bundle.holds("expert.keras")  # whose reading of images the bundle does not know
    triggered = POISONED.data.images[POISONED.is_poison][:40]
    assert server.ask(triggered.round(4).tolist()).json()["predictions"].count(REFUSED) >= 36
    clean = squares(40, seed=11)
    answered = server.ask(clean.images.round(4).tolist()).json()["predictions"]
    assert [answer["label"] for answer in answered].count(None) <= 6
