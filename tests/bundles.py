"""Small bundles to break: valid when written, with a stand-in for the model file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from defences.assembly import calibrated_for
from models.bundle import Bundle, write_bundle
from tests.fakes import Shape, noise

SHAPE: Shape = (5, 7, 3)
TOTAL_VARIATION: dict[str, Any] = {"name": "total_variation", "mode": "enforce", "weight": 0.1, "norm": 1, "iterations": 10}
STRIP: dict[str, Any] = {"name": "strip", "mode": "enforce", "blend": "add", "weight": 1.0, "stages": [2, 4, 8]}
REVERSE_SIGMOID: dict[str, Any] = {"name": "reverse_sigmoid", "mode": "enforce", "beta": 1.0, "gamma": 0.1}

SQUARES: dict[str, Any] = {"input_shape": [16, 16, 3], "labels": ["red", "green", "blue"]}
"""What a bundle of the network that tells squares apart declares of it."""


def settings(*defences: dict[str, Any], **classifier: Any) -> dict[str, Any]:
    """hauberk.toml of a four-class classifier with these defences."""
    declared = {
        "file": "model.keras",
        "outputs": "probabilities",
        "input_range": [0.0, 1.0],
        "input_shape": list(SHAPE),
        "labels": ["ant", "bee", "cat", "dog"],
    }
    return {"format": 1, "name": "animals", "classifier": declared | classifier, "defences": list(defences)}


def calibration(**changes: Any) -> dict[str, Any]:
    """calibration.npz of `STRIP` with a threshold of half a bit; a change to None leaves that array out."""
    arrays = {
        "strip_calibrated_for": np.array(calibrated_for(STRIP)),
        "strip_overlays": np.rint(noise(8, SHAPE, 7) * 255).astype(np.uint8),
        "strip_threshold": np.array(0.5),
        "strip_slack": np.array([0.2, 0.1, 0.0]),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def write(
    directory: Path,
    *defences: dict[str, Any],
    arrays: dict[str, Any] | None = None,
    model: bytes | None = None,
    **classifier: Any,
) -> Bundle:
    """Write a bundle with these defences, by default all three; `model` is the content of model.onnx, which it has none of without."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.keras").write_bytes(b"stands in for a model")
    if model is not None:
        (directory / "model.onnx").write_bytes(model)
    chosen = defences or (TOTAL_VARIATION, STRIP, REVERSE_SIGMOID)
    return write_bundle(
        directory,
        settings=settings(*chosen, **classifier),
        calibration=calibration() if arrays is None else arrays,
        card={"input_shape": list(SHAPE)},
    )


def replace_file(directory: Path, name: str, content: bytes) -> None:
    """Put other content into a file of a bundle and its digest into the card, as somebody who may write the bundle could."""
    (directory / name).write_bytes(content)
    card = json.loads((directory / "card.json").read_text())
    card["files"][name] = hashlib.sha256(content).hexdigest()
    (directory / "card.json").write_text(json.dumps(card))
