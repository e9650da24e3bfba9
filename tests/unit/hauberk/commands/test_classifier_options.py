"""How --labels, --input-range and --outputs become a classifier that reads the data rightly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hauberk.commands.classifier_options import open_classifier
from hauberk.commands.declaration import Declaration
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from tests.fakes import squares

DATA = squares(100, seed=20)


def opened(path: Path, data: Dataset = DATA, **options: Any) -> KerasClassifier:
    return open_classifier(path, data, declared=Declaration(**options), threads=1)


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
