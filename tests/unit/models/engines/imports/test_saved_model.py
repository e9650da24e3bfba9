"""SavedModels: only what leads to the outputs is taken, and only operations on the list."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.engines.imports import imported
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput
from tests.unit.models.engines.imports.test_formats import placed


def saved(directory: Path, call: Any, *specs: Any, signature: str = "serving_default") -> Path:
    """A SavedModel of one function with a variable, its outputs called "scores"."""
    tf = import_tensorflow()
    module = tf.Module()
    module.weights = tf.Variable(tf.ones((12, 3)), name="same")
    module.more = tf.Variable(2 * tf.ones((3, 3)), name="same")
    given = specs or (tf.TensorSpec([None, 2, 2, 3], tf.float32),)
    module.call = tf.function(lambda *inputs: {"scores": call(module, *inputs)}, input_signature=given)
    tf.saved_model.save(module, str(directory), signatures={signature: module.call})
    return directory


def product(module: Any, images: Any) -> Any:
    tf = import_tensorflow()
    return tf.reshape(images, [-1, 12]) @ module.weights @ module.more


def test_variables_of_one_name_keep_their_own_values_and_the_output_its_name(tmp_path: Path) -> None:
    source = imported(saved(tmp_path / "model", product))
    [answer] = source.predict_source(np.ones((2, 2, 2, 3), np.float32))
    np.testing.assert_allclose(answer, np.full((2, 3), 72))
    assert source.model is not None
    assert [output.name for output in source.model.graph.output] == ["scores"]
    assert source.parameters == 45


def test_operations_on_files_and_python_are_refused_by_name_and_do_not_run(tmp_path: Path) -> None:
    tf = import_tensorflow()
    written = tmp_path / "written"

    def reads(module: Any, images: Any) -> Any:
        length = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return product(module, images) + tf.cast(length, tf.float32)

    def writes(module: Any, images: Any) -> Any:
        tf.print("here", output_stream=f"file://{written}")
        return product(module, images)

    def calls_python(module: Any, images: Any) -> Any:
        return tf.numpy_function(lambda x: x, [product(module, images)], tf.float32)

    for place, (call, name) in enumerate(((reads, "ReadFile"), (writes, "PrintV2"), (calls_python, "PyFunc"))):
        with pytest.raises(InvalidInput, match=rf"not on the list \(.*{name}.*\); take files, text and pictures out") as refusal:
            imported(saved(tmp_path / str(place), call))
        assert "\n" not in str(refusal.value)
    assert not written.exists()


def test_a_signature_has_to_be_one_of_images(tmp_path: Path) -> None:
    tf = import_tensorflow()
    two = (tf.TensorSpec([None, 2, 2, 3], tf.float32),) * 2
    with pytest.raises(InvalidInput, match="expected a signature with one input, the images, but that of two has"):
        imported(saved(tmp_path / "two", lambda module, a, b: product(module, a + b), *two))
    assert imported(saved(tmp_path / "other", product, signature="predict")).what == "a SavedModel"
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    with pytest.raises(InvalidInput, match="with the signature 'serving_default', but none has none"):
        imported(tmp_path / "none")


@pytest.mark.parametrize("damage", ["no variables", "another checkpoint", "cut", "a link"])
def test_damaged_directories_are_refused_with_one_sentence(damage: str, tmp_path: Path) -> None:
    path = placed("saved_model.zip", tmp_path)
    if damage == "no variables":
        shutil.rmtree(path / "variables")
    elif damage == "another checkpoint":
        shutil.rmtree(path / "variables")
        shutil.copytree(saved(tmp_path / "other", product) / "variables", path / "variables")
    elif damage == "cut":
        (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:500])
    else:
        (path / "variables" / "more").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInput) as refusal:
        imported(path)
    assert "\n" not in str(refusal.value)
    assert "model.dat" in str(refusal.value)
