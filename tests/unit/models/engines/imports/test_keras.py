"""Keras files of other versions: HDF5, layers that load code, links out of the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.engines.imports import imported
from models.errors import InvalidInput
from tests.unit.models.engines.imports.test_formats import FIXTURES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the Keras 2 model, to be changed."""
    return Path(shutil.copy(FIXTURES / "keras2.h5", tmp_path / "model.h5"))


def configured(file: Path, layer: dict[str, Any]) -> Path:
    """The model with another first layer after its input."""
    with h5py.File(file, "a") as held:
        config = json.loads(held.attrs["model_config"])
        config["config"]["layers"][1] = layer
        held.attrs["model_config"] = json.dumps(config)
    return file


@pytest.mark.parametrize("kind", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer"])
def test_layers_that_hold_or_load_code_are_refused_by_name_before_keras_sees_them(kind: str, file: Path) -> None:
    name = "a Lambda layer" if kind == "Lambda" else kind
    with pytest.raises(InvalidInput, match=rf"model\.h5 does not: it needs code \({name}\), which is never run from a file"):
        imported(configured(file, {"class_name": kind, "config": {"name": "it", "filepath": "elsewhere"}}))


def test_a_layer_that_keras_does_not_have_is_refused_with_where_to_go(file: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"Keras 3 reads, but model\.h5 is none: .*Sharpen.*; export it where it was made"
    ) as refusal:
        imported(configured(file, {"class_name": "Sharpen", "config": {"name": "it"}}))
    assert "\n" not in str(refusal.value)


def test_weights_that_lie_in_another_file_are_refused(file: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones(3)
    with h5py.File(file, "a") as held:
        held["model_weights/link"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(
        InvalidInput, match=r"expected all weights in model\.h5, but 'model_weights/link' is a link into another file"
    ):
        imported(file)
    with h5py.File(file, "a") as held:
        del held["model_weights/link"]
        held.create_dataset("model_weights/raw", (4,), "u1", external=[("/etc/hostname", 0, 4)])
    with pytest.raises(InvalidInput, match="'model_weights/raw' lies in another file"):
        imported(file)


def test_a_file_that_would_unpack_to_gigabytes_is_refused(file: Path) -> None:
    with h5py.File(file, "a") as held:
        held.create_dataset("model_weights/zeros", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(InvalidInput, match=r"model\.h5 would unpack to 4,29"):
        imported(file)


def test_weights_alone_and_damaged_files_are_refused_with_one_sentence(file: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as held:
        held["dense/kernel"] = np.ones(3)
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:5000])
    for name, said in (
        ("weights.h5", "holds weights without an architecture; save the whole"),
        ("cut.h5", "is a damaged HDF5 file"),
    ):
        with pytest.raises(InvalidInput, match=said) as refusal:
            imported(tmp_path / name)
        assert "\n" not in str(refusal.value)
