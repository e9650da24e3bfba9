"""What answers say that are proven against patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import Decisions, Detection, Mode, Trace
from defences.detectors.patch_cleanser import PatchCleanser
from models.errors import InvalidInput
from service.formats import open_inference
from service.formats.answers import Answer, AnswerWriter
from service.formats.certificates import PROVES, Certificate, certificate_of
from service.formats.open_inference import Inference
from tests import bundles

CERTIFICATE = Certificate((5, 4))
MASKS: dict[str, Any] = {"name": "patch_cleanser", "mode": "enforce", "patch": [5, 4]}


def decisions(disagrees: list[bool], mode: Mode = "enforce", refused: list[bool] | None = None) -> Decisions:
    """Of images on which some mask disagrees, and which another detector refused."""
    found = np.array(disagrees)
    abstained = np.array(refused or [False] * len(found)) | (found & (mode == "enforce"))
    blank = np.full(len(found), np.nan)
    others = Detection("strip", "enforce", abstained, np.zeros(len(found), np.int64), blank, blank)
    masks = Detection("patch_cleanser", mode, found, np.full(len(found), 9), blank, blank)
    probabilities = np.where(abstained[:, None], 0, [0.3, 0.7]).astype(np.float32)
    return Decisions(probabilities, abstained, np.where(abstained, -1, 1), Trace(detections=(others, masks)))


def said(of: Decisions) -> list[Any]:
    text = AnswerWriter("m", "v", ("a", "b"), certificate=CERTIFICATE).answer("id", of)
    answer = Answer.model_validate_json(text, strict=True)
    assert answer.model_dump() == json.loads(text)
    return [prediction.certified_patch for prediction in answer.predictions]


def parameters(of: Decisions, certificate: Certificate | None = CERTIFICATE) -> Any:
    inference = Inference(np.zeros((len(of.labels), 2, 3, 1), np.float32), None, (("label", False),))
    _, text, _ = open_inference.answer(inference, of, "m", "v", certificate)
    return json.loads(text).get("parameters")


def test_an_answer_that_no_mask_changes_says_the_size_and_another_says_null() -> None:
    assert said(decisions([False, True])) == [[5, 4], None]
    assert said(decisions([False, True], "monitor")) == [[5, 4], None]
    assert said(decisions([False, False], refused=[True, False])) == [None, [5, 4]]


def test_by_the_open_inference_protocol_a_request_says_it_when_every_answer_in_it_is_proven() -> None:
    assert parameters(decisions([False, False])) == {"certified_patch": "5x4"}
    assert parameters(decisions([False, True])) == {"certified_patch": "5x4"}
    assert parameters(decisions([False, True], "monitor")) is None
    assert parameters(decisions([True, True])) is None
    assert parameters(decisions([False, False]), None) is None


def test_nothing_is_said_unless_it_is_wanted(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path, MASKS, arrays={})
    assert certificate_of(bundle, {}, wanted=False) is None
    assert certificate_of(bundle, {}, wanted=True) == CERTIFICATE
    assert certificate_of(bundle, {"patch_cleanser": "monitor"}, wanted=True) == CERTIFICATE
    assert PatchCleanser.name == PROVES


def test_a_bundle_that_proves_nothing_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    for number, (modes, *declared) in enumerate([({}, bundles.STRIP), ({"patch_cleanser": "off"}, MASKS)]):
        bundle = bundles.write(tmp_path / str(number), *declared, arrays={})
        with pytest.raises(
            InvalidInput, match="expected a bundle with patch_cleanser switched on for HAUBERK_CERTIFIED_PATCH=on"
        ):
            certificate_of(bundle, modes, wanted=True)
    with pytest.raises(InvalidInput, match=r"expected patch = \[rows, columns\] of patch_cleanser"):
        certificate_of(bundles.write(tmp_path / "x", MASKS | {"patch": 5}, arrays={}), {}, wanted=True)
