"""hauberk scan --model-only, end to end: its verdicts and exit codes, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.scanning.network_report import NETWORK_REPORT
from models.engines.keras import import_tensorflow
from tests.unit.hauberk.conftest import Command, Ran
from tests.unit.hauberk.test_main import assert_refused


def _network(path: Path, *, classes: int = 8, backdoor: bool = False, flat: bool = False) -> Path:
    """A linear network on images 10x10x1; a backdoor gives class 5 a pixel that outweighs the rest."""
    import_tensorflow()
    import keras

    weights = (np.random.default_rng(0).normal(size=(100, classes)) * 0.4).astype(np.float32)
    if backdoor:
        weights[77] -= 2
        weights[77, 5] += 22
    inputs = keras.Input((100,) if flat else (10, 10, 1))
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Model(inputs, dense(inputs if flat else keras.layers.Flatten()(inputs)))
    dense.set_weights([weights, -weights.sum(axis=0) * 0.4])
    model.save(path)
    return path


def _scan(hauberk: Command, file: Path, out: Path, *more: Any) -> Ran:
    return hauberk("scan", "--model-only", "--classifier", file, "--out", out, *more)


def test_a_backdoor_is_found_written_down_and_exit_code_3(hauberk: Command, tmp_path: Path) -> None:
    names = "zero,one,two,three,four,fi\x1bve,six,seven"
    ran = _scan(hauberk, _network(tmp_path / "m.keras", backdoor=True), tmp_path / "out", "--labels", names, "--seed", 1)
    assert ran.code == 3, ran
    assert "backdoor to class fi\\x1bve: its " in ran.output
    assert "the model is given pixels from 0 to 1" in ran.output  # which no image checks
    assert "gradients, 100 %" in ran.errors
    report = NETWORK_REPORT.validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert (report.verdict, report.suspicious_classes, report.seed) == ("backdoor", ["fi\x1bve"], 1)
    assert report.classifier == {"file": "m.keras", "engine": "Keras", "input_shape": [10, 10, 1], "classes": 8}
    assert len(report.classes) == 8
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 8
    assert 'src="http' not in page
    assert not (tmp_path / "out" / "is_clean.npy").exists()


def test_a_network_without_one_is_exit_code_0(hauberk: Command, tmp_path: Path) -> None:
    ran = _scan(hauberk, _network(tmp_path / "m.keras"), tmp_path / "out")
    assert ran.code == 0, ran
    assert "no backdoor found among 8 classes" in ran.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdict"] == "clean"


def test_few_classes_are_exit_code_2_and_the_report_says_why(hauberk: Command, tmp_path: Path) -> None:
    ran = _scan(hauberk, _network(tmp_path / "m.keras", classes=3), tmp_path / "out")
    assert ran.code == 2
    assert "cannot tell whether m.keras has a backdoor: 3 classes are too few" in ran.errors
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdict"] == "cannot tell"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "d.npz", "--rows", "0:9"], "expected no --data and no --rows with --model-only"),
        (["--methods", "spectral_signatures"], "expected no --methods with --model-only"),
        (["--workers", "4"], "leave it out"),
    ],
)
def test_options_about_training_data_are_refused(hauberk: Command, tmp_path: Path, options: list[str], sentence: str) -> None:
    assert_refused(_scan(hauberk, tmp_path / "m.keras", tmp_path / "out", *options), sentence)


def test_without_data_and_without_model_only_both_are_named(hauberk: Command, tmp_path: Path) -> None:
    ran = hauberk("scan", "--classifier", tmp_path / "m.keras", "--out", tmp_path / "out")
    assert_refused(ran, "expected --data, what the classifier was trained on, or --model-only")


def test_a_twin_without_model_only_is_refused(hauberk: Command, tmp_path: Path) -> None:
    ran = hauberk("scan", "--classifier", "m.keras", "--data", "d.npz", "--gradients", "t.keras", "--out", tmp_path / "out")
    assert_refused(ran, "expected --gradients with --model-only")


def test_a_model_on_a_server_is_refused(hauberk: Command, tmp_path: Path) -> None:
    assert_refused(_scan(hauberk, Path("v2://127.0.0.1:1/m"), tmp_path / "out"), "expected")


def test_a_model_that_leaves_the_size_of_its_images_open_is_told_it(hauberk: Command, tmp_path: Path) -> None:
    file = _network(tmp_path / "m.keras", backdoor=True, flat=True)
    assert_refused(_scan(hauberk, file, tmp_path / "out"), "say it with --resize HEIGHTxWIDTH and --colours grey or rgb")
    assert _scan(hauberk, file, tmp_path / "out", "--resize", "10x10", "--colours", "grey").code == 3


def test_a_graph_needs_a_twin_with_gradients(hauberk: Command, tmp_path: Path) -> None:
    from models.engines.keras import KerasClassifier
    from models.engines.keras_export import exported

    twin = _network(tmp_path / "m.keras", backdoor=True)
    graph = tmp_path / "m.onnx"
    graph.write_bytes(exported(KerasClassifier.load(twin)).SerializeToString())
    refused = _scan(hauberk, graph, tmp_path / "out")
    assert refused.code == 2
    assert "judging a network without its data needs gradients, and this model is ONNX, which has none" in refused.errors
    assert "--gradients" in refused.errors
    assert _scan(hauberk, graph, tmp_path / "out", "--gradients", twin).code == 3
    other = _network(tmp_path / "other.keras")
    assert (
        "expected a twin that answers as the model does" in _scan(hauberk, graph, tmp_path / "out", "--gradients", other).errors
    )
