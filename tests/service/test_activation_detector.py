"""A model.onnx calibrated with the activation detector and served: it reads a layer of the graph, and refuses attacks over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import FastGradient
from hauberk.commands.calibrate import calibrate
from models.bundle import Bundle, read_bundle
from models.engines.bundle_classifier import classifier_of
from models.engines.keras import KerasClassifier
from models.engines.keras_export import exported
from models.engines.onnx import OnnxClassifier
from tests.fakes import squares

NAME, EPS = "binary_activation_detector", 0.2
REFUSED = {"label": None, "probabilities": None, "abstained": True}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, keras_model: Any, keras_file: Path) -> Bundle:
    directory = tmp_path_factory.mktemp("watched")
    (directory / "squares.onnx").write_bytes(exported(KerasClassifier(keras_model)).SerializeToString())
    clean = squares(420, seed=10)
    np.savez(directory / "clean.npz", images=np.rint(clean.images * 255).astype(np.uint8), labels=clean.labels)
    calibrate(
        classifier=str(directory / "squares.onnx"),
        data=directory / "clean.npz",
        out=directory / "bundle",
        detectors=NAME,
        evasion_eps=EPS,
        false_abstention_rate=0.05,
        gradients=keras_file,
        threads=1,
    )
    return read_bundle(directory / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with launch(tmp_path_factory.mktemp("server"), HAUBERK_BUNDLE=str(bundle.directory), HAUBERK_BATCH_IMAGES="40") as running:
        yield running


def test_attacks_are_refused_by_a_layer_of_the_graph_and_clean_images_answered(
    server: Any, bundle: Bundle, keras_model: Any
) -> None:
    served = classifier_of(bundle, threads=1)
    assert isinstance(served, OnnxClassifier)
    [layer] = [defence["layer"] for defence in bundle.settings["defences"] if defence["name"] == NAME]
    assert layer in served.layers()

    clean = squares(40, seed=11)
    answered = server.ask(clean.images.round(4).tolist()).json()["predictions"]
    assert sum(one["abstained"] for one in answered) <= 6
    right = [one["label"] == str(label) for one, label in zip(answered, clean.labels, strict=True)]
    assert np.mean(right) > 0.7

    attacked = FastGradient(eps=EPS)(KerasClassifier(keras_model), clean.images, Goal(clean.labels)).images
    refusals = f'hauberk_abstentions_total{{defence="{NAME}",mode="enforce"}}'
    before = server.metric(refusals)
    refused = [one for one in server.ask(attacked.tolist()).json()["predictions"] if one["abstained"]]
    assert len(refused) > 28
    assert refused == [REFUSED] * len(refused)
    assert server.metric(refusals) == before + len(refused)


def test_a_request_may_hold_what_a_batch_that_was_set_smaller_than_the_bundles_limit_holds(server: Any, bundle: Bundle) -> None:
    assert (bundle.images_per_request or 0) > 40
    answer = server.ask(squares(41, seed=12).images.round(2).tolist())
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_images")
    assert answer.json()["detail"].startswith("One request may hold 40 images at most;")
    assert server.ask(squares(40, seed=12).images.round(2).tolist()).status_code == 200
