"""Activations of a data set of any size, in a file that grows batch by batch; a killed scan resumes after the last batch."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from models.classifier import ActivationClassifier, Activations
from models.errors import InvalidInput
from models.progress import Progress
from models.stored_images import StoredImages, refused_when_full

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 1 << 28
_NAME, _DONE = "activations.npy", "activations.done"


def stored_activations(
    model: ActivationClassifier, stored: StoredImages, layer: str, place: Path, progress: Progress
) -> Activations:
    """Activations float32 [n, d] of all images, as a memory map in `place`; rows of an earlier call are not computed again.

    Raises: InvalidInput: NaN in the activations, no space.
    """
    path, done_file = place / _NAME, place / _DONE
    width = model.activations(np.zeros((0, *model.input_shape), np.float32), layer).shape[1]
    shape = (len(stored), width)
    done = _done(path, done_file, shape)
    if done == 0:
        done_file.unlink(missing_ok=True)
        refused_when_full(place, lambda: _allocate(path, shape))
    activations = open_memmap(path, mode="r+")
    step = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (4 * int(np.prod(stored.shape)))))
    for start in range(done, len(stored), step):
        progress("reading activations", start, len(stored))
        rows = slice(start, min(start + step, len(stored)))
        found = model.activations(stored.images(rows), layer)
        if not np.isfinite(found).all():
            bad = start + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise InvalidInput(
                f"expected finite activations of {layer}, got NaN or infinity for sample {bad}; name another --layer"
            )
        activations[rows] = found
        activations.flush()
        refused_when_full(place, partial(_note, done_file, rows.stop))
    progress("reading activations", len(stored), len(stored))
    return open_memmap(path, mode="r")


def _done(path: Path, done_file: Path, shape: tuple[int, int]) -> int:
    """How many rows an earlier call finished."""
    try:
        done = int(done_file.read_text())
        return done if open_memmap(path, mode="r").shape == shape else 0
    except (OSError, ValueError):
        return 0


def _note(done_file: Path, done: int) -> None:
    unfinished = done_file.with_suffix(".part")
    unfinished.write_text(str(done))
    os.replace(unfinished, done_file)


def _allocate(path: Path, shape: tuple[int, int]) -> None:
    """The whole file at once: a full disk is an error here, and a crash in the middle of a memory map."""
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    size = path.stat().st_size
    del array
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
