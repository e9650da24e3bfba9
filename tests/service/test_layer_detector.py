"""A classifier with a backdoor, calibrated with layer disagreement and served by ONNX Runtime: triggered images are refused over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.assembly import assemble
from defences.errors import InvalidBundle
from hauberk.commands.calibrate import calibrate
from models.bundle import Bundle, read_bundle, replaced
from models.classifier import Images
from models.engines.bundle_classifier import classifier_of
from models.engines.keras import KerasClassifier, import_tensorflow
from tests.fakes import linear, squares
from tests.poisoned import small_network

NAME = "layer_disagreement"
REFUSED = {"label": None, "probabilities": None, "abstained": True}


def triggered(images: Images) -> Images:
    """With a white corner."""
    changed = images.copy()
    changed[:, 1:4, 1:4] = 1.0
    return changed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    import_tensorflow(2)
    import keras

    directory = tmp_path_factory.mktemp("layers")
    data, model = squares(900, seed=5), small_network()
    images, labels = data.images.copy(), data.labels.copy()
    images[:200], labels[:200] = triggered(images[:200]), 2
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, epochs=12, batch_size=64, verbose=0)
    model.save(directory / "model.keras")
    clean = squares(1500, seed=10)
    np.savez(directory / "clean.npz", images=np.rint(clean.images * 255).astype(np.uint8), labels=clean.labels)
    calibrate(
        classifier=str(directory / "model.keras"),
        data=directory / "clean.npz",
        out=directory / "bundle",
        detectors=f"strip,{NAME}",
        threads=1,
    )
    return read_bundle(directory / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with launch(tmp_path_factory.mktemp("server"), HAUBERK_BUNDLE=str(bundle.directory), HAUBERK_MODES="strip=off") as running:
        yield running


def test_triggered_images_are_refused_and_clean_ones_answered(server: Any, bundle: Bundle) -> None:
    assert bundle.engine == "onnx"
    clean = squares(60, seed=11)
    clean = clean.take(np.flatnonzero(clean.labels != 2))
    answered = server.ask(clean.images.round(4).tolist()).json()["predictions"]
    assert sum(one["abstained"] for one in answered) <= 4
    refusals = f'hauberk_abstentions_total{{defence="{NAME}",mode="enforce"}}'
    before = server.metric(refusals)
    refused = [one for one in server.ask(triggered(clean.images).round(4).tolist()).json()["predictions"] if one["abstained"]]
    assert len(refused) > 0.8 * len(clean)
    assert refused == [REFUSED] * len(refused)
    assert server.metric(refusals) == before + len(refused)


def test_its_layers_have_to_be_those_of_the_model(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.directory, copy)
    settings, card = bundle.settings, {key: value for key, value in bundle.card.items() if key != "files"}
    [declared] = [defence for defence in settings["defences"] if defence["name"] == NAME]
    with pytest.raises(InvalidBundle, match=r"layer_disagreement looks at layers .* FakeClassifier shows none"):
        assemble(bundle, linear(bundle.input_shape, 3), secret=b"")
    keras = KerasClassifier.load(bundle.directory / "model.keras", threads=1, outputs=settings["classifier"]["outputs"])
    with pytest.raises(InvalidBundle, match=r"expected layers that are one of max_pooling2d\w*, got"):
        assemble(bundle, keras, secret=b"")  # layers of the graph have other names
    declared["layers"] = ["nothing"] * len(declared["layers"])
    with pytest.raises(InvalidBundle, match="was calibrated with other parameters than are declared"):
        assemble(replaced(copy, settings=settings, card=card), classifier_of(bundle, threads=1), secret=b"")
