"""Training under worst masks: which mask that is, and what it does for images under masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from defences.detectors.mask_set import mask_boxes, mean_colour, under_masks
from defences.detectors.masked_training import beside_worst_mask, train_under_masks
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune
from tests.fakes import linear, noise, squares

SHAPE, PATCH = (8, 9, 3), (2, 2)
DATA = squares(300, seed=3)


def right_under_every_mask(classifier: KerasClassifier, data: Dataset) -> float:
    boxes = mask_boxes(data.images.shape[1:], PATCH)
    masked = under_masks(data.images, boxes, np.array(mean_colour(data.images), np.float32))
    answers = classifier.predict(masked).argmax(axis=1).reshape(len(data), -1)
    return float((answers == data.labels[:, None]).all(axis=1).mean())


def test_every_image_comes_with_itself_under_the_mask_that_leaves_its_label_least_probable() -> None:
    classifier, data = linear(SHAPE, 4, sharpness=0.3), Dataset(noise(7, SHAPE, 1), np.arange(7) % 4)
    boxes, colour = mask_boxes(SHAPE, PATCH), np.array([0.2, 0.5, 0.4], np.float32)
    found = beside_worst_mask(classifier, data, boxes, colour)
    np.testing.assert_array_equal(found.images[:7], data.images)
    np.testing.assert_array_equal(found.labels, np.concatenate([data.labels, data.labels]))
    worst = []
    for image, label, given in zip(data.images, data.labels, found.images[7:], strict=True):
        each = []
        for top, left, bottom, right in boxes:
            masked = image.copy()
            masked[top:bottom, left:right] = colour
            each.append((float(classifier.predict(masked[None])[0, label]), masked))
        number = int(np.argmin([probable for probable, _ in each]))
        np.testing.assert_array_equal(given, each[number][1])
        worst.append(number)
    assert len(set(worst)) > 1


def test_a_copy_is_right_under_masks_more_often_than_one_that_never_saw_any(keras_model: Any) -> None:
    start = KerasClassifier(keras_model)
    losses: list[float] = []
    usual = fine_tune(start, DATA, epochs=12, learning_rate=0.01)
    masked = train_under_masks(
        usual, DATA, PATCH, epochs=6, learning_rate=0.01, seed=0, on_epoch=lambda epoch, loss: losses.append(loss)
    )
    unseen = squares(300, seed=4)
    assert right_under_every_mask(masked, unseen) > right_under_every_mask(usual, unseen) + 0.1
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_copy_and_another_another(keras_model: Any) -> None:
    start = KerasClassifier(keras_model)
    first, same, other = (
        train_under_masks(start, DATA, PATCH, epochs=2, learning_rate=0.01, seed=seed).model.get_weights() for seed in (0, 0, 1)
    )
    for one, another in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, another)
    assert any((one != another).any() for one, another in zip(first, other, strict=True))
