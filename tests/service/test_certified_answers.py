"""A bundle with PatchCleanser, served: answers say what is proven where the operator wants it, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.assembly import TOGETHER, calibrated_for, names_as_text
from models.bundle import Bundle, read_bundle, standard_bundle_directory, write_bundle

MASKS: dict[str, Any] = {"name": "patch_cleanser", "mode": "enforce", "patch": [3, 3]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`mnist-standard` with masks in place of STRIP."""
    directory = shutil.copytree(standard_bundle_directory(), tmp_path_factory.mktemp("bundles") / "masked")
    found = read_bundle(directory)
    kept = [defence for defence in found.settings["defences"] if defence["name"] != "strip"]
    arrays = {
        TOGETHER: np.array(names_as_text(["patch_cleanser"])),
        "patch_cleanser_calibrated_for": np.array(calibrated_for(MASKS)),
        "patch_cleanser_colour": np.array([0.0]),
    }
    return write_bundle(
        directory,
        settings={**found.settings, "defences": [*kept, MASKS]},
        calibration={**found.calibration, **arrays},
        card={key: value for key, value in found.card.items() if key != "files"},
    )


@pytest.fixture(scope="module")
def server(bundle: Bundle, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"HAUBERK_BUNDLE": str(bundle.directory), "HAUBERK_CERTIFIED_PATCH": "on"}
    with launch(tmp_path_factory.mktemp("server"), **settings) as running:
        yield running


def test_answers_say_the_size_and_refusals_null(server: Any, digits: Any) -> None:
    images = digits[0][3000:3032].round(4)
    predictions = server.ask(images.tolist()).json()["predictions"]
    refused = [prediction["abstained"] for prediction in predictions]
    assert 0 < sum(refused) < 32
    assert [prediction["certified_patch"] for prediction in predictions] == [None if no else [3, 3] for no in refused]
    alone = server.ask(images[:1].tolist()).json()["predictions"][0]  # decided in another batch
    assert {key: alone[key] for key in ("label", "certified_patch")} == {
        key: predictions[0][key] for key in ("label", "certified_patch")
    }


def test_the_open_inference_protocol_says_it_in_a_parameter(server: Any, bundle: Bundle, digits: Any) -> None:
    images = digits[0][3000:3032].round(4)
    tensor = {"name": "images", "datatype": "FP32", "shape": [32, 28, 28], "data": images.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    answer = server.send_to(f"/v2/models/{bundle.name}/infer", body, **{"content-type": "application/json"}).json()
    assert answer["parameters"] == {"certified_patch": "3x3"}


def test_a_bundle_that_proves_nothing_is_not_served_with_the_setting(new_server: Callable[..., Any], tmp_path: Path) -> None:
    refused = new_server(ready=False, HAUBERK_CERTIFIED_PATCH="on")
    assert refused.process.wait(60) == 2
