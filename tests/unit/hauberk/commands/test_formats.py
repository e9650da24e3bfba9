"""Model files of every framework through the command line: from file to answers, and what is refused with one line and exit code 2."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from defences.assembly import load_bundle
from models.bundle import read_bundle
from models.engines.bundle_classifier import classifier_of
from models.engines.imports import imported
from tests.fakes import squares
from tests.unit.hauberk.commands.test_data import as_folder
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused
from tests.unit.models.engines.imports.test_formats import FIXTURES, FORMATS, placed

if TYPE_CHECKING:
    from onnx import ModelProto

DATA = squares(420, seed=10)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data under a short name."""
    np.savez(tmp_path / "squares.npz", images=DATA.images, labels=DATA.labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrate(hauberk: Command, classifier: str, *more: str) -> Ran:
    options = ["--false-abstention-rate=0.05", "--threads=2", *more]
    return hauberk("calibrate", f"--classifier={classifier}", "--data=squares.npz", "--out=bundle", *options)


@pytest.mark.parametrize(("name", "what", "outputs"), [one for one in FORMATS if one.id != "regression"])
def test_a_file_of_every_framework_becomes_a_bundle_that_answers_as_the_framework_does(
    hauberk: Command, workplace: Path, name: str, what: str, outputs: str
) -> None:
    path = placed(name, workplace)
    ran = calibrate(hauberk, path.name)
    assert ran.code == 0, ran
    assert f"the model is {what}" in ran.output
    bundle = read_bundle(workplace / "bundle")
    assert (bundle.engine, bundle.settings["classifier"]["outputs"]) == ("onnx", outputs)
    assert bundle.holds("model.onnx")
    assert not bundle.holds("model.keras")
    assert bundle.card["engine"]["agreement"]["same_labels"] == 1
    shown = squares(1000, seed=30)
    source = imported(path, threads=2, image_shape=(16, 16, 3))
    layout = bundle.settings["classifier"].get("layout", "nhwc")
    inputs = shown.images.transpose(0, 3, 1, 2) if layout == "nchw" else shown.images
    own = source.predict_source(np.ascontiguousarray(inputs))[0].argmax(axis=1)
    np.testing.assert_array_equal(classifier_of(bundle, threads=2).predict(shown.images).argmax(axis=1), own)
    answered = load_bundle(workplace / "bundle", secret=b"", threads=2).classify(DATA.images[:20])
    assert (answered.labels[~answered.abstained] == DATA.labels[:20][~answered.abstained]).mean() > 0.7


def test_a_model_of_keras_2_becomes_a_bundle_with_its_keras_model(hauberk: Command, workplace: Path) -> None:
    shutil.copy(FIXTURES / "keras2.h5", workplace / "model.h5")
    ran = calibrate(hauberk, "model.h5")
    assert ran.code == 0, ran
    assert read_bundle(workplace / "bundle").holds("model.keras")


def test_a_model_that_cannot_be_trained_here_is_not(hauberk: Command, workplace: Path) -> None:
    shutil.copy(FIXTURES / "squares.onnx", workplace)
    ran = hauberk(
        "train", "--classifier=squares.onnx", "--data=squares.npz", "--out=hard.keras", "--adversarial=pgd", "--eps=0.1"
    )
    assert_refused(ran, "expected a Keras model to train, got an ONNX model, which cannot be trained here")


def test_train_refuses_a_format_before_it_asks_for_names_that_it_has_no_option_for(hauberk: Command, workplace: Path) -> None:
    import onnx

    model = onnx.load(str(FIXTURES / "squares.onnx"))
    onnx.helper.set_model_props(model, {"names": '["red", "green", "blue"]'})  # the folders' order is another
    onnx.save(model, str(workplace / "squares.onnx"))
    as_folder(DATA, workplace / "pictures")
    options = ["--classifier=squares.onnx", "--data=pictures", "--out=hard.keras", "--adversarial=pgd", "--eps=0.1"]
    ran = hauberk("train", *options)
    assert ran.code == 2, ran
    assert "expected a Keras model to train, got an ONNX model, which cannot be trained here" in ran.errors


# ONNX files -------------------------------------------------------------------------------------------------------------------------


def onnx_model(*, kind: str = "") -> ModelProto:
    """A network of one product, or one that is wrong in one way."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((768, 3), np.float32), "w")
    shape: list[str | int | None] = ["n", "h", "w", 3] if kind == "dynamic" else ["n", 16, 16, 3]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    opset, domains = 18, []
    if kind == "custom":
        nodes[0] = helper.make_node("Sharpen", ["images"], ["flat"], domain="my.company")
        domains = [helper.make_opsetid("my.company", 1)]
    elif kind == "string":
        scores = helper.make_tensor_value_info("scores", TensorProto.STRING, ["n"])
    elif kind == "sequence":
        nodes.append(helper.make_node("SequenceConstruct", ["scores"], ["many"]))
        scores = helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None)
    elif kind == "opset":
        opset = 3
    elif kind == "dynamic":  # the shape of its weights fits one size of pictures, and these have another
        weights = numpy_helper.from_array(np.ones((3072, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [images], [scores], [weights])
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=8)
    if kind == "outside":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secrets.bin")
    return model


BAD_ONNX = {
    "outside": "expected model.onnx to keep its weights in its own directory, got '../secrets.bin'",
    "custom": "model.onnx needs my.company.Sharpen, which is code that is never loaded",
    "string": "'scores' is a tensor of string",
    "sequence": "'many' is a sequence",
    "opset": "of operator set 7 to",
    "dynamic": "the shapes in model.onnx contradict each other",
}


@pytest.mark.parametrize("kind", BAD_ONNX)
def test_an_onnx_file_that_cannot_be_served_is_refused(hauberk: Command, workplace: Path, kind: str) -> None:
    (workplace / "model.onnx").write_bytes(onnx_model(kind=kind).SerializeToString())
    assert_refused(calibrate(hauberk, "model.onnx"), BAD_ONNX[kind])
    assert not (workplace / "bundle").exists()


def test_two_gigabytes_are_refused_without_being_read(hauberk: Command, workplace: Path) -> None:
    with (workplace / "model.onnx").open("wb") as file:
        file.write(b"\x08\x08\x12\x04test")
        file.truncate((2 << 30) + 1)
    assert_refused(calibrate(hauberk, "model.onnx"), "expected an ONNX model of less than 2 GiB, got model.onnx with 2.0 GiB")


# Code under a friendly name ----------------------------------------------------------------------------------------------------------


class _Runs:
    """What writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("name", ["model.pt", "model.pt2", "model.onnx", "model.keras", "model.skops", "model.h5", "model"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_with_a_friendly_name_is_never_loaded(hauberk: Command, workplace: Path, name: str, protocol: int) -> None:
    import pickle

    (workplace / name).write_bytes(pickle.dumps(_Runs(), protocol))
    assert_refused(calibrate(hauberk, name), "which may hold code and is never loaded")
    assert not (workplace / "it_ran").exists()


def test_a_zipped_pickle_of_torch_is_never_loaded(hauberk: Command, workplace: Path) -> None:
    for name in ("model.pt", "model.onnx", "model.keras"):
        shutil.copy(FIXTURES / "pickled.pt", workplace / name)
        assert_refused(
            calibrate(hauberk, name), f"got {name}, which is a PyTorch file (.pt), which may hold code and is never loaded"
        )


def test_a_program_of_torch_that_needs_code_is_refused(hauberk: Command, workplace: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(FIXTURES / "squares.pt2") as archive, zipfile.ZipFile(out, "w") as copy:
        for one in archive.infolist():
            content = archive.read(one)
            if one.filename.endswith("models/model.json"):
                program = json.loads(content)
                program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mine.sharpen.default"
                content = json.dumps(program).encode()
            copy.writestr(one.filename, content)
    (workplace / "model.pt2").write_bytes(out.getvalue())
    assert_refused(
        calibrate(hauberk, "model.pt2"),
        "needs operations that are not on the list of known ones (torch.ops.mine.sharpen.default)",
    )


def test_what_no_framework_wrote_is_refused_with_where_to_read_on(hauberk: Command, workplace: Path) -> None:
    (workplace / "model.onnx").write_bytes(b"hello")
    assert_refused(calibrate(hauberk, "model.onnx"), "expected an ONNX model, but model.onnx")
    (workplace / "notes.txt").write_text("hello")
    assert_refused(calibrate(hauberk, "notes.txt"), "got notes.txt; docs/formats.md says how to save it as one")
    assert_refused(calibrate(hauberk, "none.pt2"), "none.pt2, which does not exist")
