"""Keras models: `.keras` archives of Keras 3 and 2, and the HDF5 files (`.h5`) of both.

A configuration names classes, and Keras looks them up and calls them. In safe mode it refuses functions; layers that load or unpickle
a model of another framework are refused here by name before. An HDF5 file can point into other files and can unpack to a thousand
times its size: its directory is read first.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.archives import FOR_BUNDLES, check_file
from models.engines.imports.foreign import Imported, reason_of
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput
from models.file_kinds import KERAS_MODEL, code_in, kind_of, looked_up_elsewhere, own_code
from models.files import open_file

_CONFIG = "model_config"
_ELSEWHERE = "export it where it was made with model.export('directory') (Keras 2: tf.saved_model.save), and give that directory"
_OWN_LAYERS = f"which is never run from a file; build it from Keras's own layers, or {_ELSEWHERE}"


def opened(path: Path, threads: int | None, image_shape: tuple[int, int, int] | None) -> Imported:
    """See `models.engines.imports.imported`."""
    model = keras_model(path, threads=threads)
    what = "a Keras model" if kind_of(path) == KERAS_MODEL else "a Keras model in HDF5"

    def predict(inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return tuple(map(np.asarray, keras_outputs(model(inputs, training=False))))

    return Imported(what=what, keras=model, predict_source=predict, parameters=int(model.count_params()))


def keras_outputs(returned: Any) -> list[Any]:
    """The tensors that a Keras model returned, in whatever structure."""
    import keras

    found: list[Any] = keras.tree.flatten(returned)
    return found


def keras_model(path: Path, *, threads: int | None = None) -> Any:
    """The Keras model in an archive or an HDF5 file, without its optimiser. Raises: InvalidInput."""
    archive = kind_of(path) == KERAS_MODEL
    code = _check_archive(path) if archive else _check_hdf5(path)
    import_tensorflow(threads)
    import keras

    try:
        with _named(path, ".keras" if archive else ".h5") as file:
            return keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as failure:  # what a configuration makes Keras raise is of any kind
        raise InvalidInput(_refusal(path, code, failure)) from failure


def _refusal(path: Path, code: list[str], failure: Exception) -> str:
    if code:
        return _needs_code(path, code)
    return f"expected a Keras model that Keras 3 reads, but {path.name} is none: {reason_of(failure)}; {_ELSEWHERE}"


def _check_archive(path: Path) -> list[str]:
    """The code that a `.keras` file asks for. Raises: InvalidInput: layers of other frameworks, too large."""
    try:
        with open_file(path) as file:
            check_file(file, FOR_BUNDLES)
    except (OSError, ValueError) as failure:
        raise InvalidInput(f"{path.name} {reason_of(failure)}; save the model again with model.save('name.keras')") from failure
    return _checked(path, own_code(path))


def _check_hdf5(path: Path) -> list[str]:
    """As `_check_archive`, for an HDF5 file. Raises: InvalidInput: also no model in it, links out of it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get(_CONFIG)
            _check_datasets(file, path)
    except OSError as failure:
        raise InvalidInput(f"expected a Keras model, but {path.name} is a damaged HDF5 file; copy it again") from failure
    if config is None:
        raise InvalidInput(
            f"expected a Keras model, but {path.name} holds weights without an architecture; save the whole model with "
            "model.save('name.keras')"
        )
    try:
        return _checked(path, code_in(json.loads(config)))
    except (ValueError, RecursionError, TypeError) as failure:
        raise InvalidInput(f"expected a Keras model, but the configuration in {path.name} is no JSON; save it again") from failure


def _checked(path: Path, code: list[str]) -> list[str]:
    refused = looked_up_elsewhere(code)
    if refused:
        raise InvalidInput(_needs_code(path, refused))
    return code


def _needs_code(path: Path, code: list[str]) -> str:
    needs = f"it needs code ({', '.join(code)})"
    return f"expected a Keras model that loads in safe mode, but {path.name} does not: {needs}, {_OWN_LAYERS}"


def _check_datasets(file: Any, path: Path) -> None:
    import h5py

    links: dict[str, Any] = {}
    file.visititems_links(links.__setitem__)
    for name, link in links.items():
        if isinstance(link, h5py.ExternalLink):
            raise InvalidInput(
                f"expected all weights in {path.name}, but {name!r} is a link into another file; save the model again"
            )
    datasets = {name: file[name] for name, link in links.items() if isinstance(link, h5py.HardLink)}
    datasets = {name: held for name, held in datasets.items() if isinstance(held, h5py.Dataset)}
    for name, held in datasets.items():
        if held.external or held.is_virtual:
            raise InvalidInput(f"expected all weights in {path.name}, but {name!r} lies in another file; save the model again")
    unpacked, packed = sum(held.nbytes for held in datasets.values()), path.stat().st_size
    if unpacked > FOR_BUNDLES.bytes_at_most(packed):
        raise InvalidInput(
            f"{path.name} would unpack to {unpacked:,} bytes, more than a model of {packed:,} bytes holds; save it again"
        )


@contextmanager
def _named(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name that ends in `suffix`, by which Keras chooses how to read it."""
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory) / f"model{suffix}"
        os.symlink(path.resolve(), link)
        yield link
