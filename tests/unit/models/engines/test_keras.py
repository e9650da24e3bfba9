"""Keras models behind the protocol: outputs, inputs, batches, files. One small trained model serves most tests."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.bundle import read_bundle
from models.classifier import Classifier
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, load_model
from models.errors import InvalidInput
from models.training.fine_tuning import fine_tune
from models.training.reference_classifier import save
from tests import bundles
from tests.fakes import noise, softmax, squares


@pytest.fixture(scope="module")
def keras(keras_model: Any) -> Any:
    """The module, imported quietly when the model was made."""
    import keras

    return keras


@pytest.fixture(scope="module")
def classifier(keras_model: Any) -> KerasClassifier:
    return KerasClassifier(keras_model, batch_size=64)


def projection(keras: Any, shape: tuple[int | None, ...], columns: int, *, activation: str | None = None) -> Any:
    """An untrained dense network."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(columns, activation=activation)])


def test_it_is_a_classifier_that_tells_the_squares_apart(classifier: KerasClassifier) -> None:
    data = squares(200, seed=1)
    assert isinstance(classifier, Classifier)
    assert classifier.input_shape == (16, 16, 3)
    assert classifier.labels == ("0", "1", "2")
    probabilities = classifier.predict(data.images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == data.labels).mean() > 0.97


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_batches_that_are_split_answer_as_whole_ones(classifier: KerasClassifier, keras_model: Any, n: int) -> None:
    images = squares(200, seed=2).images[:n]
    whole = KerasClassifier(keras_model, batch_size=1000).predict(images)
    split = classifier.predict(images)
    assert split.shape == (n, 3)
    assert split.dtype == np.float32
    np.testing.assert_allclose(split, whole, atol=1e-6)


def test_no_batch_size_traces_the_graph_again(classifier: KerasClassifier) -> None:
    for n in (1, 2, 7, 64, 100):
        classifier.predict(noise(n, (16, 16, 3), n))
    assert classifier.forward.experimental_get_tracing_count() == 1


def test_logits_become_probabilities(keras: Any) -> None:
    model, images = projection(keras, (4, 4, 1), 5), noise(6, (4, 4, 1), 0)
    found = KerasClassifier(model, outputs="logits").predict(images)
    np.testing.assert_allclose(found, softmax(model.predict(images, verbose=0).astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize(("activation", "outputs"), [("sigmoid", "probabilities"), (None, "logits")])
def test_a_single_output_becomes_two_columns(keras: Any, activation: str | None, outputs: Any) -> None:
    model, images = projection(keras, (4, 4, 1), 1, activation=activation), noise(6, (4, 4, 1), 0)
    classifier = KerasClassifier(model, outputs=outputs)
    raw = model.predict(images, verbose=0)[:, 0]
    positive = raw if activation else 1 / (1 + np.exp(-raw))
    assert classifier.labels == ("0", "1")
    np.testing.assert_allclose(classifier.predict(images), np.stack([1 - positive, positive], axis=1), atol=1e-6)


def test_of_a_single_logit_both_classes_keep_their_digits(keras: Any) -> None:
    model, images = projection(keras, (1, 1, 1), 1), np.ones((1, 1, 1, 1), np.float32)
    for logit in (20.0, -20.0):
        model.layers[-1].set_weights([np.full((1, 1), logit), np.zeros(1)])
        unlikely, likely = np.sort(KerasClassifier(model, outputs="logits").predict(images)[0])
        assert unlikely == pytest.approx(np.exp(-20), rel=1e-5)
        assert likely == pytest.approx(1)


@pytest.mark.parametrize("input_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_images_are_mapped_to_the_range_of_the_model(keras: Any, input_range: tuple[float, float]) -> None:
    low, high = input_range
    model, images = projection(keras, (4, 4, 1), 3, activation="softmax"), noise(6, (4, 4, 1), 0)
    found = KerasClassifier(model, input_range=input_range).predict(images)
    np.testing.assert_allclose(found, model.predict(images * (high - low) + low, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("own", "wanted", "shape"),
    [
        ((4, 6), None, (4, 6, 1)),
        ((4, 6), (4, 6, 1), (4, 6, 1)),
        ((24,), (4, 6, 1), (4, 6, 1)),
        ((24,), (4, 2, 3), (4, 2, 3)),
    ],
)
def test_models_without_a_channel_axis_or_with_flat_input_get_input_of_their_shape(
    keras: Any, own: tuple[int, ...], wanted: tuple[int, int, int] | None, shape: tuple[int, int, int]
) -> None:
    model, images = projection(keras, own, 3, activation="softmax"), noise(5, shape, 0)
    classifier = KerasClassifier(model, input_shape=wanted)
    assert classifier.input_shape == shape
    np.testing.assert_allclose(classifier.predict(images), model.predict(images.reshape(5, *own), verbose=0), atol=1e-6)


def test_a_model_that_leaves_its_size_open_takes_that_of_the_images(keras: Any) -> None:
    layers = keras.layers
    pooled = [keras.Input((None, None, 3)), layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")]
    classifier = KerasClassifier(keras.Sequential(pooled), input_shape=(5, 7, 3))
    assert classifier.input_shape == (5, 7, 3)
    assert classifier.predict(noise(2, (5, 7, 3), 0)).shape == (2, 2)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ((4, 6, 1), (4, 4, 1)),
        ((4, 6, 1), (4, 6, 3)),
        ((24,), None),
        ((24,), (5, 5, 1)),
        ((None, None, 3), None),
        ((2, 3, 4, 1), None),
    ],
)
def test_a_model_that_does_not_take_such_images_is_refused(
    keras: Any, own: tuple[int, ...], wanted: tuple[int, int, int] | None
) -> None:
    keras_layers = [keras.Input(own), keras.layers.GlobalAveragePooling2D() if None in own else keras.layers.Flatten()]
    model = keras.Sequential([*keras_layers, keras.layers.Dense(2)])
    with pytest.raises(InvalidInput, match=r"expected (a model whose input is one image|images of the model's shape)"):
        KerasClassifier(model, input_shape=wanted)


def test_labels_name_the_columns_or_are_refused(keras_model: Any) -> None:
    assert KerasClassifier(keras_model, labels=["red", "green", "blue"]).labels == ("red", "green", "blue")
    with pytest.raises(InvalidInput, match="expected 3 labels, one per class of the model, got 2"):
        KerasClassifier(keras_model, labels=["red", "green"])


@pytest.mark.parametrize("own", [(3, 32, 32), (1, 28, 28), (4, 8, 6), (3, None, None)])
def test_a_model_that_has_its_channels_first_is_refused_and_not_read_as_three_rows(
    keras: Any, own: tuple[int | None, ...]
) -> None:
    pooled = [keras.Input(own), keras.layers.GlobalAveragePooling2D(data_format="channels_first"), keras.layers.Dense(2)]
    for wanted in (None, (32, 32, 3), (3, 32, 32)):
        with pytest.raises(InvalidInput, match="which has its channels first; say --layout nchw"):
            KerasClassifier(keras.Sequential(pooled), input_shape=wanted)


def test_what_the_refusal_of_channels_first_advises_works(keras: Any) -> None:
    inner = keras.Sequential(
        [keras.Input((3, 8, 8)), keras.layers.GlobalAveragePooling2D(data_format="channels_first"), keras.layers.Dense(2)]
    )
    outer = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Permute((3, 1, 2)), inner])
    images = noise(4, (8, 8, 3), 0)
    found = KerasClassifier(outer, outputs="logits").predict(images)
    logits = inner.predict(images.transpose(0, 3, 1, 2), verbose=0).astype(np.float64)
    np.testing.assert_allclose(found, softmax(logits), atol=1e-5)


@pytest.mark.parametrize("own", [(3, 3, 3), (1, 1, 1), (4, 4, 1), (3, 28, 1), (1, 28, 3)])
def test_shapes_that_may_be_either_are_read_as_rows_columns_channels(keras: Any, own: tuple[int, int, int]) -> None:
    assert KerasClassifier(projection(keras, own, 3, activation="softmax")).input_shape == own


def structured(keras: Any, how: str) -> Any:
    """A model that takes or returns its one tensor in a structure."""
    image = keras.Input((8, 8, 1), name="image")
    scores = keras.layers.Dense(3, activation="softmax", name="head")(keras.layers.Flatten(name="flat")(image))
    if how == "sequential":
        return keras.Sequential([keras.Input((8, 8, 1)), keras.Model(image, {"scores": scores})])
    if how == "subclassed":

        class Own(keras.Model):  # type: ignore[misc]  # Keras has no types
            def __init__(self) -> None:
                super().__init__()
                self.inner = keras.Model(image, scores)

            def call(self, images: Any) -> Any:
                return {"scores": [self.inner(images)]}

        return Own()
    given, returned = {
        "dict": (image, {"scores": scores}),
        "list": (image, [scores]),
        "tuple": (image, (scores,)),
        "nested": ({"image": image}, {"all": [{"scores": scores}]}),
    }[how]
    return keras.Model(given, returned)


@pytest.mark.parametrize("how", ["dict", "list", "tuple", "nested", "sequential", "subclassed"])
def test_one_tensor_in_any_structure_is_one_output_everywhere(keras: Any, how: str, tmp_path: Path) -> None:
    model, images = structured(keras, how), noise(5, (8, 8, 1), 0)
    classifier = KerasClassifier(model, input_shape=(8, 8, 1))
    probabilities = classifier.predict(images)
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(softmax(classifier.logits(images).astype(np.float64)), probabilities, atol=1e-5)
    assert classifier.class_gradients(images).shape == (5, 3, 8, 8, 1)
    assert classifier.hidden_layer().endswith("flat")
    assert classifier.activations(images).shape == (5, 64)
    if how != "subclassed":  # a class of the user's own is no model that can be loaded in safe mode
        save(classifier.model, tmp_path / "model.keras")
        np.testing.assert_allclose(KerasClassifier.load(tmp_path / "model.keras").predict(images), probabilities, atol=1e-6)
        labels = np.arange(5) % 3
        assert fine_tune(classifier, Dataset(images, labels), epochs=1).predict(images).shape == (5, 3)


@pytest.mark.parametrize("returned", [None, "text", 2])
def test_a_model_that_returns_no_tensor_or_two_is_refused_in_one_sentence(keras: Any, returned: Any) -> None:
    class Own(keras.Model):  # type: ignore[misc]  # Keras has no types
        def __init__(self) -> None:
            super().__init__()
            self.flat = keras.layers.Flatten()

        def call(self, images: Any) -> Any:
            flat = self.flat(images)
            return {"a": flat, "b": flat} if returned == 2 else returned

    with pytest.raises(InvalidInput, match=r"expected (a model that maps one image tensor|the name of an output)") as refusal:
        KerasClassifier(Own(), input_shape=(4, 4, 1))
    assert "\n" not in str(refusal.value)


def test_models_with_several_inputs_or_outputs_are_refused(keras: Any) -> None:
    one, two = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(keras.layers.Add()([one, two]))
    with pytest.raises(InvalidInput, match="1 input and 1 output, got 2 and 1"):
        KerasClassifier(keras.Model([one, two], keras.layers.Dense(2)(flat)))
    flat = keras.layers.Flatten()(one)
    with pytest.raises(InvalidInput, match=r"expected the name of an output \(--output\), one of dense"):
        KerasClassifier(keras.Model(one, [keras.layers.Dense(2)(flat), keras.layers.Dense(3)(flat)]))


def test_a_model_that_answers_with_maps_is_refused(keras: Any) -> None:
    with pytest.raises(InvalidInput, match=r"expected a model whose output is \[n, classes\]"):
        KerasClassifier(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3)]))


def test_a_saved_model_answers_as_before(keras_file: Path, keras_model: Any) -> None:
    images = squares(20, seed=3).images
    loaded = KerasClassifier.load(keras_file, labels=["r", "g", "b"])
    np.testing.assert_allclose(loaded.predict(images), KerasClassifier(keras_model).predict(images), atol=1e-6)
    assert loaded.labels == ("r", "g", "b")


def test_a_bundle_says_how_its_model_is_read(keras_file: Path, keras_model: Any, tmp_path: Path) -> None:
    shutil.copy(keras_file, tmp_path / "trained.keras")
    bundles.write(
        tmp_path,
        bundles.REVERSE_SIGMOID,
        input_shape=[16, 16, 3],
        labels=["red", "green", "blue"],
        input_range=[0.0, 0.5],
        outputs="logits",
    )
    bundles.replace_file(tmp_path, "model.keras", keras_file.read_bytes())
    classifier = KerasClassifier.from_bundle(read_bundle(tmp_path), threads=1)
    assert classifier.labels == ("red", "green", "blue")
    images = squares(20, seed=3).images
    raw = KerasClassifier(keras_model, input_range=(0.0, 0.5)).predict(images)
    np.testing.assert_allclose(classifier.predict(images), softmax(raw.astype(np.float64)), atol=1e-6)


def test_what_is_handed_in_by_mistake_is_called_by_its_name(keras: Any, keras_file: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "folder.keras").mkdir()
    whole = keras_file.read_bytes()
    with h5py.File(tmp_path / "renamed.keras", "w"):
        pass
    with (tmp_path / "arrays.keras").open("wb") as file:
        np.savez(file, images=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "packed.keras", "w") as archive:
        archive.writestr("model.keras", whole)
    with zipfile.ZipFile(tmp_path / "torch.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    contents = {
        "pointer.keras": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "page.keras": b"\n<!DOCTYPE html><html>",
        "cut.keras": whole[: len(whole) // 2],
        "empty.keras": b"",
        "old.pth": b"\x80\x02ctorch",
        "network.onnx": b"\x08\x07\x12",
        "saved_model.pb": b"\x08\x01",
        "network.tflite": b"\x1c\x00\x00\x00TFL3",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    said = {
        "saved": "got saved, which is a SavedModel directory; load it where it was made and save it again with model.save",
        "folder.keras": "which is a directory",
        "renamed.keras": "it is an HDF5 file (.h5); load it where it was made and save it again",
        "arrays.keras": "it is an archive of arrays (.npz)",
        "packed.keras": "it is a zip archive with a model in it; unpack it",
        "torch.pt": "which is a PyTorch file (.pt), which may hold code and is never loaded",
        "pointer.keras": "it is a git-lfs pointer, not the file itself; run git lfs pull",
        "page.keras": "it is a web page or XML; the download went wrong",
        "cut.keras": "it is cut off or damaged; copy it again",
        "empty.keras": "it is empty",
        "old.pth": "which is a pickle, such as an old PyTorch file",
        "network.onnx": "which is an ONNX model",
        "saved_model.pb": "which is part of a SavedModel",
        "network.tflite": "which is a TensorFlow Lite model",
    }
    for name, sentence in said.items():
        with pytest.raises(InvalidInput) as refusal:
            load_model(tmp_path / name)
        assert sentence in str(refusal.value)
        assert name in str(refusal.value)
        assert "does not exist" not in str(refusal.value)
        assert "not found" not in str(refusal.value).lower()


def test_the_users_own_layers_are_named_and_keras_is_never_cut_in_a_word(keras: Any, tmp_path: Path) -> None:
    class Sharpen(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def call(self, images: Any) -> Any:
            return images

    keras.Sequential([keras.Input((4, 4, 1)), Sharpen(), keras.layers.Flatten()]).save(tmp_path / "own.keras")
    with pytest.raises(InvalidInput, match=r"own\.keras does not: it needs code \(Sharpen\), which is never run from a file"):
        load_model(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "odd.keras", "w") as archive:
        archive.writestr("config.json", '{"module": "keras", "class_name": "Nothing' + 60 * " of this kind" + '"}')
        archive.writestr("metadata.json", "{}")
    with pytest.raises(InvalidInput) as refusal:
        load_model(tmp_path / "odd.keras")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith((" ...", ".", "'"))


def test_what_is_no_model_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"")
    (tmp_path / "broken.keras").write_bytes(b"hello")
    for name, sentence in (
        ("none.keras", "does not exist; save one with"),
        ("model.h5", "expected a model in the .keras format, got model.h5"),
        ("broken.keras", "loads in safe mode, but broken.keras does not"),
    ):
        with pytest.raises(InvalidInput, match=sentence) as refusal:
            load_model(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_a_model_with_code_in_it_is_refused_although_it_could_be_loaded(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Flatten()]).save(path)
    keras.models.load_model(path, safe_mode=False)
    with pytest.raises(InvalidInput, match=r"loads in safe mode, but lambda\.keras does not: it needs code \(a Lambda layer\)"):
        load_model(path)


def test_a_small_model_file_that_would_unpack_to_gigabytes_is_refused_before_keras_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(300 << 20))
    with pytest.raises(InvalidInput, match=r"bomb\.keras would unpack to 300\.0 MiB, expected 256\.0 MiB at most"):
        load_model(path)
