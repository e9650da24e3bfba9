"""What a file that cannot be used is instead, by its first bytes: what people hand in by mistake, and what to do about it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KERAS_MODEL = "a Keras model (.keras)"
_LOOKED_AT = 512
_CONFIG_AT_MOST = 1 << 26

_BY_FIRST_BYTES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5)"),
    (b"\x93NUMPY", "one NumPy array (.npy)"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x80\x02", "a pickle, such as an old PyTorch file, which may hold code and is never loaded"),
    (b"\x80\x04", "a pickle, which may hold code and is never loaded"),
    (b"\x80\x05", "a pickle, which may hold code and is never loaded"),
    (b"<", "a web page or XML; the download went wrong"),
    (b"{", "JSON, perhaps an architecture without its weights"),
)
_BY_MEMBER: tuple[tuple[str, str], ...] = (
    ("config.json", KERAS_MODEL),
    ("data.pkl", "a PyTorch file (.pt), which may hold code and is never loaded"),
    (".npy", "an archive of arrays (.npz), damaged perhaps"),
    (".h5", "a zip archive with a model in it; unpack it"),
    (".keras", "a zip archive with a model in it; unpack it"),
    (".npz", "a zip archive with data in it; unpack it"),
)
_SUFFIXES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".pt", ".pth", ".ckpt", ".bin"), "a file of PyTorch"),
    ((".onnx",), "an ONNX model"),
    ((".pb",), "part of a SavedModel"),
    ((".tflite",), "a TensorFlow Lite model"),
    ((".safetensors",), "weights without an architecture (safetensors)"),
)


def kind_of(path: Path) -> str:
    """What is at `path`, in words that follow "got NAME, which is ..."; "" for what is not recognised."""
    if path.is_dir():
        saved = (path / "saved_model.pb").exists()
        return "a SavedModel directory" if saved else "a directory"
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
            return list(dict.fromkeys(_own(json.loads(file.read(_CONFIG_AT_MOST)))))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return []


def _own(config: Any) -> Iterator[str]:
    if isinstance(config, list):
        for one in config:
            yield from _own(one)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module", "keras")
        if name in ("Lambda", "__lambda__"):
            yield "a Lambda layer"
        elif isinstance(name, str) and (module is None or str(module).split(".")[0] not in ("keras", "builtins")):
            yield name
        for one in config.values():
            yield from _own(one)
