"""Train a classifier on images under the masks that PatchCleanser will show to it, each under the one that it likes least.

Paper: Saha, Yu, Norouzzadeh, Lin & Mummadi, TMLR 2023, arXiv:2306.12610: training on worst masks instead of random ones (Cutout, DeVries
& Taylor 2017, arXiv:1708.04552), on which Xiang et al. 2022, arXiv:2108.09135, train. There a greedy search in two rounds comes near the
worst; here are only nine masks, and all are tried.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from defences.detectors.mask_set import MASKS, Boxes, mask_boxes, mean_colour, under_masks
from models.classifier import Classifier
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

# Half of what is usual, since each image is beside itself in its batch.
_BATCH = 64


def train_under_masks(
    classifier: KerasClassifier,
    data: Dataset,
    patch: tuple[int, int],
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> KerasClassifier:
    """A copy of the classifier, trained further on every image and on the same image under its worst mask at the time:

        min_theta E [CE(f_theta(x), y) + max_j CE(f_theta(m_j(x)), y)]

    m_j(x) is x under mask j of those that cover the patch. x is certified if f is right under its worst mask, and then under every one. A
    network that is trained on masks drawn at random spends most of its steps on masks under which it is right already.

    The masks have the mean colour of the data, as those of `hauberk calibrate` may have.

    Args:
        epochs, learning_rate, seed, on_epoch: see `fine_tune`.

    Cost: per image and epoch, nine model calls, and a forward and a backward pass of two images.
    Raises: as `fine_tune`.
    """
    boxes, colour = mask_boxes(data.images.shape[1:], patch), np.array(mean_colour(data.images), np.float32)
    return fine_tune(
        classifier,
        data,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=_BATCH,
        seed=seed,
        shown=lambda copy, batch: beside_worst_mask(copy, batch, boxes, colour),
        on_epoch=on_epoch,
    )


def beside_worst_mask(classifier: Classifier, data: Dataset, boxes: Boxes, colour: NDArray[np.float32]) -> Dataset:
    """Twice the data: every image as it is, and under the mask that leaves its label the least probable."""
    masked = under_masks(data.images, boxes, colour)
    each = np.arange(len(data))
    probable = classifier.predict(masked).reshape(len(data), MASKS, -1)[each, :, data.labels]
    worst = masked.reshape(len(data), MASKS, *data.images.shape[1:])[each, probable.argmin(axis=1)]
    return Dataset(np.concatenate([data.images, worst]), np.tile(data.labels, 2))
