"""Classifiers from files of other frameworks: read without running anything in them, and turned into ONNX graphs.

`imported` opens a file by what it is. One module a format; each checks first what its framework would unpack, look up or run, refuses
what is not on its list, and only then hands the framework a copy of the parts that were checked.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from models.engines.imports.foreign import Imported
from models.errors import InvalidInput
from models.file_kinds import (
    KERAS_HDF5,
    KERAS_MODEL,
    MODEL_KINDS,
    ONNX_MODEL,
    SAVED_MODEL,
    SKOPS_MODEL,
    TORCH_EXPORT,
    TORCH_SCRIPT,
    kind_of,
)

__all__ = ["Imported", "imported"]

ImageShape = tuple[int, int, int]
_Importer = Callable[[Path, int | None, ImageShape | None], Imported]

_READ_BY = {
    KERAS_MODEL: "keras",
    KERAS_HDF5: "keras",
    ONNX_MODEL: "onnx",
    SAVED_MODEL: "saved_model",
    TORCH_EXPORT: "torch",
    TORCH_SCRIPT: "torch",
    SKOPS_MODEL: "sklearn",
}
_TAKEN = "a Keras, ONNX, SavedModel, torch.export, TorchScript or skops model"


def imported(path: Path, *, threads: int | None = None, image_shape: ImageShape | None = None) -> Imported:
    """The classifier at `path`, by what is there and not by its name.

    Args:
        threads: of the source's own forward pass; all processors when none.
        image_shape: (h, w, c) of the images it will be shown; needed by TorchScript, which does not say what it takes.

    Raises: InvalidInput, one sentence: no such file, a format that is not read, code in it, a framework that is not installed.
    """
    if not path.exists():
        raise InvalidInput(f"expected {_TAKEN}, got {path}, which does not exist; docs/formats.md says how to save one")
    kind = kind_of(path)
    if kind not in MODEL_KINDS:
        raise InvalidInput(f"expected {_TAKEN}, got {path.name}{kind and f', which is {kind}'}{_what_to_do(kind)}")
    importer: _Importer = import_module(f"models.engines.imports.{_READ_BY[kind]}").opened
    return importer(path, threads, image_shape)


def _what_to_do(kind: str) -> str:
    return "" if ";" in kind else "; docs/formats.md says how to save it as one"
