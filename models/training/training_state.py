"""The state of a training, and its checkpoint file, from which an interrupted training continues to the same result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.archives import FOR_BUNDLES, read_arrays
from models.datasets import Dataset
from models.errors import InvalidInput
from models.files import open_file

_FORMAT = 1


@dataclass(frozen=True)
class Epoch:
    """The figures of an epoch.

    Attributes:
        number: counted from 1.
        loss: mean loss over its steps.
        accuracy, robust: share of the validation images that are classified correctly, clean and under the training attacks at twice
            their iterations; NaN without validation images.
    """

    number: int
    loss: float
    accuracy: float
    robust: float


class TrainingState:
    """All variables that a training changes, the figures of its epochs, and the best weights so far.

    Args:
        variables: the TensorFlow variables of model and optimiser.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = list(variables)
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights: list[NDArray[Any]] = []

    def ended(self, epoch: Epoch, kept: bool, weights: list[NDArray[Any]]) -> None:
        """Record an epoch; with `kept`, its weights become the best ones."""
        self.epochs.append(epoch)
        if kept:
            self.best, self.best_weights = epoch, weights

    def write(self, path: Path, fingerprint: str) -> None:
        """Replace the checkpoint atomically. Raises: InvalidInput: it cannot be written; the previous one stays."""
        said = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": self.best.number if self.best is not None else 0,
        }
        arrays = {f"variable_{i}": np.asarray(variable) for i, variable in enumerate(self._variables)}
        arrays |= {f"best_{i}": weights for i, weights in enumerate(self.best_weights)}
        draft = path.with_name(path.name + ".new")
        try:
            with draft.open("wb") as file:
                np.savez(file, said=np.array(json.dumps(said)), **arrays)  # type: ignore[arg-type]  # numpy types **kwds as its own options
            os.replace(draft, path)
        except OSError as failure:
            with suppress(OSError):
                draft.unlink()
            raise InvalidInput(
                f"cannot write the checkpoint {path} ({(failure.strerror or str(failure)).lower()}); make room and run the same again, "
                "it goes on after the last epoch that was written"
            ) from failure

    def read(self, path: Path, fingerprint: str) -> None:
        """Restore the state from a checkpoint, if the file exists. Raises: InvalidInput: a damaged file, or another training's."""
        if not path.exists():
            return
        try:
            with open_file(path) as file:
                arrays = read_arrays(file, room=FOR_BUNDLES)
            said = json.loads(str(arrays["said"]))
            epochs = [Epoch(**epoch) for epoch in said["epochs"]]
            found, best = str(said["fingerprint"]), int(said["best"])
        except Exception as failure:  # damaged archives raise a dozen kinds of exceptions
            raise InvalidInput(f"expected {path} to be a checkpoint, but it cannot be read; remove it to start anew") from failure
        if found != fingerprint:
            raise InvalidInput(
                f"expected {path} to be a checkpoint of this training, but it is one of other data, another model or other options; "
                "remove it to start anew"
            )
        for i, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable_{i}"])
        self.epochs = epochs
        self.best = next(epoch for epoch in epochs if epoch.number == best)
        self.best_weights = [arrays[f"best_{i}"] for i in range(sum(name.startswith("best_") for name in arrays))]


def fingerprint(data: Dataset, options: object, weights: Sequence[NDArray[Any]]) -> str:
    """A sha256 that identifies a training, over its data, options and initial weights."""
    digest = hashlib.sha256(repr(options).encode())
    arrays: list[NDArray[Any]] = [data.images, data.labels, *weights]
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
