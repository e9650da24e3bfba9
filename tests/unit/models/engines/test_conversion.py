"""A Keras classifier converted: compared, timed, and left to TensorFlow where it is not the same or has no graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import read_bundle, standard_bundle_directory
from models.datasets import MNIST
from models.engines.conversion import LARGEST_DIFFERENCE, compare, convert, timed
from models.engines.convert_bundle import calibration_images, convert_bundle
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, constant, noise, squares

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model)


def test_a_conversion_answers_as_its_source_and_says_by_how_much(classifier: KerasClassifier) -> None:
    images = squares(200, seed=4).images
    conversion = convert(classifier, images, threads=1)
    assert conversion.model is not None
    assert conversion.agreement is not None
    served = OnnxClassifier(conversion.model, labels=classifier.labels, input_shape=SHAPE, threads=1)
    difference = np.abs(served.predict(images) - classifier.predict(images)).max()
    assert conversion.agreement.images == 200
    assert conversion.agreement.largest_difference == pytest.approx(difference, abs=1e-6)
    assert difference < 1e-5
    assert conversion.agreement.same_labels == 1
    assert [timing.rows for timing in conversion.timings] == [1, 8, 64]
    assert all(timing.onnx_ms > 0 and timing.source_ms > 0 for timing in conversion.timings)
    assert conversion.card()["timings"][0]["threads"] == 1
    assert "model" not in conversion.card()


@pytest.mark.parametrize(("outputs", "columns"), [("logits", 3), ("logits", 1), ("probabilities", 1)])
def test_the_range_and_the_head_are_in_the_graph(keras_model: Any, outputs: Any, columns: int) -> None:
    import keras

    keras.utils.set_random_seed(2)
    activation = "sigmoid" if outputs == "probabilities" else None
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(columns, activation=activation)]
    source = KerasClassifier(keras.Sequential(layers), input_range=(-1.0, 1.0), outputs=outputs)
    images = noise(10, SHAPE, 0)
    conversion = convert(source, images, threads=1)
    assert conversion.model is not None, conversion.reason
    served = OnnxClassifier(conversion.model, labels=source.labels, input_shape=SHAPE, threads=1)
    np.testing.assert_allclose(served.predict(images), source.predict(images), atol=1e-6)


def test_an_operation_without_a_counterpart_keeps_tensorflow(keras_model: Any) -> None:
    import keras
    import tensorflow as tf

    class Bessel(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def call(self, images: Any) -> Any:
            return tf.math.special.bessel_j0(images)

    model = keras.Sequential([keras.Input(SHAPE), Bessel(), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    conversion = convert(KerasClassifier(model), noise(4, SHAPE, 0), threads=1)
    assert (conversion.engine, conversion.model) == ("keras", None)
    assert "\n" not in conversion.reason
    assert conversion.card()["agreement"] is None


def shifted(by: float) -> FakeClassifier:
    return constant([0.5 + by, 0.5 - by], (2, 2, 1))


@pytest.mark.parametrize(
    ("converted", "source", "reason"),
    [
        (shifted(0.1), shifted(0.1), None),
        (shifted(0.1), shifted(0.1 + 2 * LARGEST_DIFFERENCE), "probabilities differ by up to 0.002"),
        (shifted(float("nan")), shifted(0.1), "differ by up to nan"),
        (shifted(1e-4), shifted(-1e-4), "5 of 5 labels differ"),
        (shifted(1e-6), shifted(-1e-6), None),
    ],
)
def test_what_is_not_the_same_model_is_told(converted: FakeClassifier, source: FakeClassifier, reason: str | None) -> None:
    found = compare(converted, source, noise(5, (2, 2, 1), 0)).reason_against
    assert found is None if reason is None else found is not None and reason in found


def test_both_are_timed_on_the_same_images() -> None:
    converted, source = shifted(0.1), shifted(0.1)
    timing = timed(converted, source, noise(5, (2, 2, 1), 0), threads=3)
    assert (timing.rows, timing.threads) == (5, 3)
    assert set(converted.calls) == set(source.calls) == {5}
    assert len(converted.calls) == len(source.calls) > 1


def test_a_bundle_from_before_gets_a_graph_and_keeps_everything_else(tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(standard_bundle_directory(), before)
    (before / "model.onnx").unlink()
    bundle = _without_graph(before)
    after, conversion = convert_bundle(before, MNIST, threads=1)
    assert conversion.model is not None
    assert (before / "model.onnx").read_bytes() == conversion.model
    assert after.engine == conversion.engine
    assert after.version != bundle.version
    assert [key for key in after.card if key != "engine"] == [key for key in bundle.card if key != "engine"]
    for name in ("model.keras", "calibration.npz", "example.json"):
        assert (before / name).read_bytes() == (standard_bundle_directory() / name).read_bytes()
    assert after.settings["defences"] == bundle.settings["defences"]


def test_other_images_than_those_of_the_calibration_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.npz").write_bytes(b"other")
    with pytest.raises(InvalidInput, match=r"expected mnist\.npz, which .* was calibrated on, got .*other\.npz, another file"):
        calibration_images(read_bundle(standard_bundle_directory()), tmp_path / "other.npz")


def _without_graph(directory: Path) -> Any:
    """The bundle as it was before there were engines."""
    import json
    import re

    from tests.bundles import replace_file

    card = json.loads((directory / "card.json").read_text())
    del card["files"]["model.onnx"]
    card.pop("engine")
    (directory / "card.json").write_text(json.dumps(card))
    settings = re.sub(r'(?m)^engine = "onnx"\n', "", (directory / "hauberk.toml").read_text())
    replace_file(directory, "hauberk.toml", settings.encode())
    return read_bundle(directory)
