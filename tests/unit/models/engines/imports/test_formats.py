"""Every format, from a file that its own framework wrote to a classifier that answers as that framework does."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.datasets import Dataset
from models.engines.imports import imported
from models.engines.imports.classifier import ForeignClassifier, proposed_input
from models.engines.imports.foreign import Imported
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.preparation import Preparation
from tests.fakes import squares

FIXTURES = Path(__file__).parent / "fixtures"
SHAPE = (16, 16, 3)
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_ONNXSCRIPT = HAS_TORCH and importlib.util.find_spec("onnxscript") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install torch")
needs_onnxscript = pytest.mark.skipif(not HAS_ONNXSCRIPT, reason="needs PyTorch and onnxscript: pip install torch onnxscript")

FORMATS = [
    pytest.param("squares.onnx", "an ONNX model", "logits", id="onnx"),
    pytest.param("saved_model.zip", "a SavedModel", "logits", id="saved_model"),
    pytest.param("regression.skops", "a scikit-learn model", "probabilities", id="regression"),
    pytest.param("forest.skops", "a scikit-learn model", "probabilities", id="forest"),
    pytest.param("squares.pt2", "a program of torch.export", "logits", id="pt2", marks=needs_onnxscript),
    pytest.param("scripted.pt", "a TorchScript program", "logits", id="scripted", marks=needs_torch),
    pytest.param("traced.pt", "a TorchScript program", "logits", id="traced", marks=needs_torch),
]


@pytest.fixture(scope="module")
def test_set() -> Dataset:
    return squares(500, seed=21)


def placed(name: str, directory: Path) -> Path:
    """A fixture under a name that says nothing of its format; a SavedModel unpacked."""
    at = directory / "model.dat"
    if name.endswith(".zip"):
        with zipfile.ZipFile(FIXTURES / name) as archive:
            archive.extractall(at)
    else:
        shutil.copy(FIXTURES / name, at)
    return at


def opened(source: Imported, outputs: str) -> ForeignClassifier:
    layout, dtype = proposed_input(source, "model.dat")
    preparation = Preparation(layout=layout, dtype=dtype)
    return ForeignClassifier(
        source,
        name="model.dat",
        input_shape=SHAPE,
        preparation=preparation,
        outputs="logits" if outputs == "logits" else "probabilities",
        threads=2,
    )


@pytest.mark.parametrize(("name", "what", "outputs"), FORMATS)
def test_a_file_of_every_framework_answers_as_that_framework_does(
    name: str, what: str, outputs: str, tmp_path: Path, test_set: Dataset
) -> None:
    source = imported(placed(name, tmp_path), threads=2, image_shape=SHAPE)
    assert source.what == what
    assert source.parameters > 20
    classifier = opened(source, outputs)
    own = classifier.source_probabilities(test_set.images)
    probabilities = classifier.predict(test_set.images)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), own.argmax(axis=1))
    np.testing.assert_allclose(probabilities, own, atol=1e-5)
    assert (own.argmax(axis=1) == test_set.labels).mean() > (0.6 if "forest" in name else 0.95) or "regression" in name
    conversion = classifier.conversion(test_set.images)
    assert conversion.engine == "onnx"
    assert conversion.model == classifier.graph
    assert conversion.agreement is not None
    assert conversion.agreement.same_labels == 1


def test_a_model_of_keras_2_in_hdf5_stays_a_keras_model_with_its_weights(tmp_path: Path, test_set: Dataset) -> None:
    source = imported(placed("keras2.h5", tmp_path), threads=2)
    assert source.model is None
    classifier = KerasClassifier(source.keras, outputs="logits")
    answers = classifier.predict(test_set.images).argmax(axis=1)
    assert (answers == test_set.labels).mean() > 0.99
    [own] = source.predict_source(test_set.images)
    np.testing.assert_array_equal(own.argmax(axis=1), answers)


def test_the_classes_of_a_scikit_learn_model_keep_their_names_and_number(tmp_path: Path) -> None:
    source = imported(placed("regression.skops", tmp_path))
    assert opened(source, "probabilities").labels == ("blue", "green", "red")
    assert imported(placed("forest.skops", tmp_path)).labels is None


def test_two_models_that_differ_are_not_taken_for_one(tmp_path: Path, test_set: Dataset) -> None:
    source = imported(placed("squares.onnx", tmp_path))
    other = Imported(
        what="another model",
        parameters=source.parameters,
        model=source.model,
        predict_source=lambda inputs: tuple(output[:, ::-1] for output in source.predict_source(inputs)),
    )
    with pytest.raises(InvalidInput, match=r"made of model\.dat is not the same model as another model: probabilities differ"):
        opened(other, "logits").conversion(test_set.images)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("squares.pt2", "torch", "torch"), ("traced.pt", "torch", "torch"), ("forest.skops", "skops.io", "sklearn-models")],
)
def test_a_framework_that_is_not_installed_is_named_with_what_installs_it(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidInput, match=rf'which is not installed: pip install "hauberk\[{extra}\]"'):
        imported(FIXTURES / name, image_shape=SHAPE)


@needs_torch
def test_torchscript_is_asked_for_with_the_shape_of_the_images() -> None:
    with pytest.raises(InvalidInput, match="TorchScript does not say what it takes"):
        imported(FIXTURES / "traced.pt")
    with pytest.raises(InvalidInput, match="expected a program that takes images"):
        imported(FIXTURES / "traced.pt", image_shape=(16, 16, 5))


def test_files_are_called_what_they_are_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((FIXTURES / "pickled.pt").read_bytes())
    (tmp_path / "model.keras").write_bytes(b"\x80\x04\x95cposix\nsystem\n")
    (tmp_path / "model.skops").write_bytes(b"\x78\x9c and so on")
    (tmp_path / "model.pt2").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    said = {
        "model.onnx": "which is a PyTorch file (.pt), which may hold code and is never loaded",
        "model.keras": "which is a pickle, which may hold code and is never loaded",
        "model.skops": "as joblib writes pickles, which may hold code and are never loaded",
        "model.pt2": "which is a pickle, which may hold code and is never loaded",
    }
    for name, sentence in said.items():
        with pytest.raises(InvalidInput) as refusal:
            imported(tmp_path / name)
        assert sentence in str(refusal.value)
        assert "docs/formats.md says how to save it" in str(refusal.value)
