"""The images that a model is judged on after hauberk train: read, and compared with those it is trained on, before the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hauberk.commands.data import AsPictures, chosen_rows, read_data
from models.datasets import Dataset, Split, has_halves
from models.errors import InvalidInput


def judge_on(
    trained_on: Dataset, path: Path, split: Split, rows: str | None, pictures: AsPictures, *, new: bool
) -> tuple[Dataset, str]:
    """Images that the model is not trained on, of the same file, and what they are; the training images where there are no others.

    Args:
        new: a network is made for these classes, and knows no others.

    Raises: InvalidInput: nothing to learn, or images that such a model cannot be judged on.
    """
    _check_classes(trained_on)
    found, what = _others(trained_on, path, split, rows, pictures)
    _check_alike(found, what, trained_on, new=new)
    return found, what


def _others(trained_on: Dataset, path: Path, split: Split, rows: str | None, pictures: AsPictures) -> tuple[Dataset, str]:
    if split == "train" and has_halves(path):
        return read_data(path, "test", None), "the test split"
    if rows is not None:
        whole = read_data(path, split, None, pictures)
        others = whole.take(np.delete(np.arange(len(whole)), chosen_rows(rows, len(whole))))
        if len(others):
            return others, "the other rows of the file"
    return trained_on, "the training images themselves"


def _check_classes(data: Dataset) -> None:
    """Raises: InvalidInput: nothing to tell apart; rows of a file that is sorted by class are of one."""
    found = np.unique(data.labels)
    if len(found) < 2:
        raise InvalidInput(f"expected labels of at least 2 classes to train on, got only class {found[0]}")


def _check_alike(judged_on: Dataset, what: str, trained_on: Dataset, *, new: bool) -> None:
    """Raises: InvalidInput: images of another shape than those trained on, or labels that a `new` network will not know."""
    shape, wanted = judged_on.images.shape[1:], trained_on.images.shape[1:]
    if shape != wanted:
        raise InvalidInput(f"expected images {wanted}, as those to train on, in {what}, got {shape}")
    known, got = int(trained_on.labels.max()), int(judged_on.labels.max())
    if new and got > known:
        raise InvalidInput(
            f"expected labels up to {known}, as those to train on, in {what}, got {got}; rows of a file that is sorted by class hold "
            "some classes only: shuffle it"
        )
