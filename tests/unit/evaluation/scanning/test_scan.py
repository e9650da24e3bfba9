"""A scan as a function: data in memory, kept work, and what it refuses; the files and the verdicts are the command's tests'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.backdoors.poisoning import Poisoned
from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Witness
from defences.poison.spectral_signatures import SpectralSignatures
from evaluation.scanning.scan import KeptWork, ScanPlan, scan
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.errors import InvalidInput
from tests.converted import converted, graph
from tests.fakes import squares

SPECTRAL = (SpectralSignatures(),)


def test_data_in_memory_are_scanned_without_a_word_and_without_a_file(
    backdoored: tuple[Any, Poisoned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, poisoned = backdoored
    told: list[tuple[str, int, int]] = []
    found = scan(
        KerasClassifier(model, outputs="logits"),
        poisoned.data,
        truth=poisoned.is_clean,
        plan=ScanPlan(detectors=(ActivationClustering(),)),
        progress=lambda *report: told.append(report),
    )
    assert found.report.verdict == "poison"
    assert found.report.data["file"] == "in memory"
    assert found.report.confusion is not None
    assert (found.report.confusion.tpr or 0) > 0.9
    assert found.is_clean.shape == (len(poisoned.data),)
    assert {what for what, _, _ in told} >= {"reading activations", "splitting classes"}
    assert all(done <= of for _, done, of in told)
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_kept_work_is_taken_up_by_the_same_plan_and_by_no_other(backdoored: tuple[Any, Poisoned], tmp_path: Path) -> None:
    model, poisoned = backdoored
    classifier = KerasClassifier(model, outputs="logits")
    for name in ("mine", "mine", "another"):
        scan(classifier, poisoned.data, plan=ScanPlan(detectors=SPECTRAL, kept=KeptWork(tmp_path / "work", {"model": name})))
    assert len(list((tmp_path / "work").iterdir())) == 2


def test_labels_that_do_not_fit_and_no_detector_are_refused(keras_model: Any) -> None:
    classifier, images = KerasClassifier(keras_model), np.zeros((4, 16, 16, 3), np.float32)
    with pytest.raises(InvalidInput, match="expected labels below 3"):
        scan(classifier, Dataset(images, np.arange(4)))
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        scan(classifier, Dataset(images, np.zeros(4, np.int64)))
    with pytest.raises(InvalidInput, match="at least one detector"):
        scan(classifier, Dataset(images, np.arange(4) % 3), plan=ScanPlan(detectors=()))


def test_the_witness_of_a_classifier_without_an_earlier_layer_is_the_pixels() -> None:
    class Shallow:
        input_shape, labels = (2, 2, 1), ("a", "b")

        def earlier_layer(self) -> None:
            return None

    images = np.random.default_rng(0).random((600, 2, 2, 1), np.float32)
    rows = np.arange(599, -1, -1)
    np.testing.assert_array_equal(Witness(Shallow(), lambda rows: images[rows])(rows), images[rows].reshape(600, 4))  # type: ignore[arg-type]


def test_a_graph_of_onnx_gets_the_verdicts_of_the_keras_model_it_was_converted_from(
    backdoored: tuple[Any, Poisoned], undoored: tuple[Any, Dataset]
) -> None:
    (doored, poisoned), (clean, clean_data) = backdoored, undoored
    for model, data, verdict in ((doored, poisoned.data, "poison"), (clean, clean_data, "clean")):
        source = KerasClassifier(model, outputs="logits")
        mine, other = (scan(each, data).report for each in (converted(source), source))
        assert mine.verdict == other.verdict == verdict
        assert mine.poisoned_classes == other.poisoned_classes
        assert abs(mine.suspicious_samples - other.suspicious_samples) <= 2  # of rounding, at the border of two clusters
        assert (mine.classifier["engine"], other.classifier["engine"]) == ("ONNX", "Keras")
        for one, own in zip(mine.methods, other.methods, strict=True):
            assert [found.verdict for found in one.classes] == [found.verdict for found in own.classes]


def test_a_model_without_a_layer_of_weights_is_refused_in_a_sentence() -> None:
    from onnx import helper

    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["classes"], keepdims=0)]
    model = graph(nodes, {"axes": np.array([1, 2], np.int64)}, images=[16, 16, 3], output="classes", classes=3)
    colours = OnnxClassifier(model.SerializeToString(), labels=("red", "green", "blue"), input_shape=(16, 16, 3), threads=1)
    with pytest.raises(InvalidInput, match="expected a model with a classification head, but no node has a kernel; name"):
        scan(colours, squares(60, seed=1))
