"""What a file that cannot be used is instead, by its first bytes: what people hand in by mistake, and what to do about it."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KERAS_MODEL = "a Keras model (.keras)"
KERAS_HDF5 = "an HDF5 file (.h5)"
ONNX_MODEL = "an ONNX model"
SAVED_MODEL = "a SavedModel directory"
TORCH_EXPORT = "a PyTorch program (torch.export, .pt2)"
TORCH_SCRIPT = "a TorchScript program"
SKOPS_MODEL = "a scikit-learn model (.skops)"
MODEL_KINDS = frozenset({KERAS_MODEL, KERAS_HDF5, ONNX_MODEL, SAVED_MODEL, TORCH_EXPORT, TORCH_SCRIPT, SKOPS_MODEL})
"""Those that `models.engines.imports` reads."""

_LOOKED_AT = 512
_CONFIG_AT_MOST = 1 << 26

# Protocols 3 to 5 have a number, protocols 0 and 1 begin with what they call.
_PICKLES = (b"\x80\x03", b"\x80\x04", b"\x80\x05", b"ccopy_reg\n", b"c__builtin__\n", b"cbuiltins\n", b"cposix\n", b"cos\n")
_PACKED = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\xfd7zXZ\x00")
# The first field of an ONNX model is the version of its format, 3 at least; a SavedModel begins alike, with version 1.
_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42\x72]")

_BY_FIRST_BYTES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", KERAS_HDF5),
    (b"\x93NUMPY", "one NumPy array (.npy)"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x80\x02", "a pickle, such as an old PyTorch file, which may hold code and is never loaded"),
    *((start, "a pickle, which may hold code and is never loaded") for start in _PICKLES),
    *(
        (start, "compressed with zlib or LZMA, as joblib writes pickles, which may hold code and are never loaded")
        for start in _PACKED
    ),
    (b"<", "a web page or XML; the download went wrong"),
    (b"{", "JSON, perhaps an architecture without its weights"),
)
_BY_MEMBER: tuple[tuple[str, str], ...] = (
    ("/models/model.json", TORCH_EXPORT),
    ("serialized_exported_program.json", TORCH_EXPORT),
    ("/constants.pkl", TORCH_SCRIPT),
    ("schema.json", SKOPS_MODEL),
    ("config.json", KERAS_MODEL),
    ("data.pkl", "a PyTorch file (.pt), which may hold code and is never loaded"),
    (".npy", "an archive of arrays (.npz), damaged perhaps"),
    (".h5", "a zip archive with a model in it; unpack it"),
    (".keras", "a zip archive with a model in it; unpack it"),
    (".npz", "a zip archive with data in it; unpack it"),
)
_LAMBDA = "a Lambda layer"
_CODE = frozenset({"Lambda", "__lambda__"})
# Layers of Keras that load a SavedModel from any path, unpickle a PyTorch module, or hold pickled functions.
_FOREIGN_LAYERS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_SUFFIXES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".pt", ".pth", ".ckpt", ".bin"), "a file of PyTorch"),
    ((".onnx",), ONNX_MODEL),
    ((".pb",), "part of a SavedModel"),
    ((".tflite",), "a TensorFlow Lite model"),
    ((".safetensors",), "weights without an architecture (safetensors)"),
)


def kind_of(path: Path) -> str:
    """What is at `path`, in words that follow "got NAME, which is ..."; "" for what is not recognised."""
    if path.is_dir():
        return SAVED_MODEL if (path / "saved_model.pb").exists() else "a directory"
    if not path.exists():
        return "not there"
    if not path.is_file():
        return "no regular file"
    with path.open("rb") as file:
        first = file.read(_LOOKED_AT)
    if not first:
        return "empty"
    if first.startswith(b"PK"):
        return _of_archive(path)
    for start, kind in _BY_FIRST_BYTES:
        if first.lstrip().startswith(start):
            return kind
    if _ONNX.match(first):
        return ONNX_MODEL
    return next((kind for suffixes, kind in _SUFFIXES if path.suffix.lower() in suffixes), "")


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return "cut off or damaged; copy it again"
    for end, kind in _BY_MEMBER:
        if any(name.endswith(end) for name in names):
            return kind
    return "a zip archive of other things"


def own_code(path: Path) -> list[str]:
    """The classes and functions that a .keras file needs and that are not Keras's own, by name, once each."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as file:
            return code_in(json.loads(file.read(_CONFIG_AT_MOST)))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return []


def code_in(config: Any) -> list[str]:
    """The classes and functions in a Keras model's configuration that are not Keras's own, by name, once each."""
    return list(dict.fromkeys(_own(config)))


def looked_up_elsewhere(code: list[str]) -> list[str]:
    """Of the names that `code_in` found, those that Keras has and that would run or load something that is not Keras's."""
    return [name for name in code if name == _LAMBDA or name in _FOREIGN_LAYERS]


def _own(config: Any) -> Iterator[str]:
    if isinstance(config, list):
        for one in config:
            yield from _own(one)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module", "keras")
        if name in _CODE:
            yield _LAMBDA
        elif name in _FOREIGN_LAYERS:
            yield str(name)
        elif isinstance(name, str) and (module is None or str(module).split(".")[0] not in ("keras", "builtins")):
            yield name
        for one in config.values():
            yield from _own(one)
