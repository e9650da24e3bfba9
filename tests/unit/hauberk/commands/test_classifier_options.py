"""How a file and what is said about it become a classifier that reads the data rightly."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hauberk.commands.classifier_options import open_classifier
from hauberk.commands.declaration import Declaration
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import Preparation
from tests.fakes import squares, tinted

DATA = squares(100, seed=20)


def opened(path: Path, data: Dataset = DATA, **options: Any) -> KerasClassifier:
    classifier = open_classifier(path, data, declared=Declaration(**options), threads=1).classifier
    assert isinstance(classifier, KerasClassifier)
    return classifier


def test_probabilities_and_the_range_0_to_1_are_recognised(keras_file: Path) -> None:
    classifier = opened(keras_file)
    assert classifier.outputs == "probabilities"
    assert classifier.input_range == (0.0, 1.0)
    assert classifier.labels == ("0", "1", "2")


def test_logits_are_recognised(keras_model: Any, tmp_path: Path) -> None:
    import keras

    head = keras.layers.Dense(3)
    logits = keras.Sequential([keras.Input((16, 16, 3)), *keras_model.layers[:-1], head])
    head.set_weights(keras_model.layers[-1].get_weights())
    logits.save(tmp_path / "logits.keras")
    classifier = opened(tmp_path / "logits.keras")
    assert classifier.outputs == "logits"
    np.testing.assert_allclose(classifier.predict(DATA.images), KerasClassifier(keras_model).predict(DATA.images), atol=1e-5)


@pytest.mark.parametrize("text", ["red\ngreen\nblue\n", "red\r\n\ngreen \nblue"])
def test_labels_may_come_from_a_file_with_one_a_line(keras_file: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert opened(keras_file, labels=str(tmp_path / "names.txt")).labels == ("red", "green", "blue")
    assert opened(keras_file, labels="red, green,blue").labels == ("red", "green", "blue")


def test_an_operator_may_insist_on_a_range(keras_file: Path) -> None:
    assert opened(keras_file, input_range="0,255").input_range == (0.0, 255.0)
    assert opened(keras_file, input_range="-1, 1").input_range == (-1.0, 1.0)


def test_labels_in_what_is_no_file_are_refused_and_not_waited_for(keras_file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match=r"expected --labels to be names or a text file, .* it is a named pipe"):
        opened(keras_file, labels=str(tmp_path / "pipe"))


TINTED = tinted(900, seed=21)


@pytest.mark.parametrize("preset", ["torch", "caffe"])
def test_a_model_trained_behind_a_preset_is_asked_about_and_what_is_advised_fits(
    tinted_network: Callable[[str | None], Any], tmp_path: Path, preset: Any
) -> None:
    tinted_network(preset).save(tmp_path / "model.keras")
    with pytest.raises(
        InvalidInput, match=r"is right on .* when it is given pixels from 0 to 1, but on .* with .*; say --"
    ) as asked:
        opened(tmp_path / "model.keras", TINTED)
    advised = re.search(r"; say (--[^\s;]+(?: --[^\s;]+)*)(?:; or else |, or --| \(|$)", str(asked.value))
    assert advised is not None
    options = dict(option.removeprefix("--").replace("-", "_", 1).split("=") for option in advised[1].rstrip("; ").split())
    as_advised, as_trained = (
        opened(tmp_path / "model.keras", TINTED, **options),
        opened(tmp_path / "model.keras", TINTED, preset=preset),
    )
    fresh = tinted(900, seed=22)
    by_advice, by_training = (
        (one.predict(fresh.images).argmax(axis=1) == fresh.labels).mean() for one in (as_advised, as_trained)
    )
    assert by_advice > by_training - 0.015 > 0.9


def test_who_insists_is_believed(tinted_network: Callable[[str | None], Any], tmp_path: Path) -> None:
    tinted_network("torch").save(tmp_path / "model.keras")
    with pytest.raises(InvalidInput, match=r", or --input-range=0,1 --channels=rgb to insist"):
        opened(tmp_path / "model.keras", TINTED, channels="rgb")
    insisted = opened(tmp_path / "model.keras", TINTED, input_range="0,1", channels="rgb")
    assert insisted.preparation == Preparation()


def behind(keras: Any, network: Any, shape: tuple[int, ...], *, dtype: str = "float32") -> Any:
    """The network behind an input of another layout or type."""
    layers = [keras.layers.Permute((2, 3, 1))] if shape[0] == 3 else []
    layers += [keras.layers.Rescaling(1 / 255)] if dtype == "uint8" else []
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers, *network.layers])


def test_channels_first_and_bytes_follow_from_the_models_input(keras_model: Any, tmp_path: Path) -> None:
    import keras

    expected = KerasClassifier(keras_model).predict(DATA.images)
    behind(keras, keras_model, (3, 16, 16)).save(tmp_path / "first.keras")
    behind(keras, keras_model, (16, 16, 3), dtype="uint8").save(tmp_path / "bytes.keras")
    first = opened(tmp_path / "first.keras")
    assert first.preparation == Preparation(layout="nchw")
    np.testing.assert_allclose(first.predict(DATA.images), expected, atol=1e-6)
    assert opened(tmp_path / "first.keras", layout="nchw").preparation == first.preparation
    of_bytes = opened(tmp_path / "bytes.keras")
    assert of_bytes.preparation == Preparation.of_range(0, 255, dtype="uint8")
    np.testing.assert_allclose(of_bytes.predict(DATA.images), expected, atol=0.05)
    with pytest.raises(InvalidInput, match=r"got \(3, 16, 16\), which has its channels first; say --layout nchw"):
        opened(tmp_path / "first.keras", layout="nhwc")
    with pytest.raises(InvalidInput, match=r"got \(16, 16, 3\), which has its channels last"):
        opened(tmp_path / "bytes.keras", layout="nchw")
    with pytest.raises(InvalidInput, match=r"expected values within 0\.\.255 for a model that takes uint8, got -1 to 1"):
        opened(tmp_path / "bytes.keras", input_range="-1,1")


def test_of_several_outputs_one_is_named(keras_model: Any, tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((16, 16, 3))
    features = keras.Sequential(keras_model.layers[:-1])(inputs)
    two = keras.Model(inputs, {"label": keras_model.layers[-1](features), "size": keras.layers.Dense(1)(features)})
    two.save(tmp_path / "two.keras")
    with pytest.raises(InvalidInput, match=r"expected the name of an output \(--output\), one of label .*, size .*, got none"):
        opened(tmp_path / "two.keras")
    with pytest.raises(InvalidInput, match="got 'colour'"):
        opened(tmp_path / "two.keras", output="colour")
    np.testing.assert_allclose(
        opened(tmp_path / "two.keras", output="label").predict(DATA.images),
        KerasClassifier(keras_model).predict(DATA.images),
        atol=1e-6,
    )


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_sigmoid_or_its_logit_is_two_classes(keras_model: Any, tmp_path: Path, activation: str | None) -> None:
    import keras

    red = Dataset(DATA.images, (DATA.labels == 0).astype(np.int64))
    head = keras.layers.Dense(1, activation=activation)
    network = keras.Sequential([keras.Input((16, 16, 3)), *keras_model.layers[:-1], head])
    features = keras.Sequential(keras_model.layers[:-1]).predict(red.images, verbose=0)
    weights, *_ = np.linalg.lstsq(np.c_[features, np.ones(len(features))], np.where(red.labels, 8.0, -8.0), rcond=None)
    head.set_weights([weights[:-1, None], weights[-1:]])
    network.save(tmp_path / "red.keras")
    classifier = opened(tmp_path / "red.keras", red)
    assert classifier.outputs == ("probabilities" if activation else "logits")
    assert (classifier.predict(red.images).argmax(axis=1) == red.labels).mean() > 0.9
