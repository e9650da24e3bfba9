"""Training under worst masks: which mask that is, and what it does for images under masks."""

from __future__ import annotations

import numpy as np
import pytest

from defences.detectors.mask_set import mask_boxes, mean_colour, under_masks
from defences.detectors.masked_training import beside_worst_mask, train_under_masks
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.fine_tuning import fine_tune
from tests.fakes import linear, noise

SHAPE, PATCH = (8, 9, 3), (2, 2)


def corners(n: int, *, seed: int) -> Dataset:
    """Three classes, told by the tint of two opposite corners, in one of them faintly."""
    rng = np.random.default_rng(seed)
    images, labels = rng.uniform(0.2, 0.4, (n, *SHAPE)), rng.integers(0, 3, n)
    images[np.arange(n), :2, :2, labels] += 0.6
    images[np.arange(n), -2:, -2:, labels] += 0.2
    return Dataset(images.astype(np.float32), labels)


@pytest.fixture(scope="module")
def usual() -> KerasClassifier:
    """A network that never saw a mask."""
    import_tensorflow(2)
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    start = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3, activation="softmax")])
    return fine_tune(KerasClassifier(start), corners(400, seed=3), epochs=10, learning_rate=0.02)


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


def test_a_copy_is_right_under_every_mask_where_one_that_never_saw_any_is_not(usual: KerasClassifier) -> None:
    seen, unseen = corners(400, seed=3), corners(400, seed=4)
    longer = fine_tune(usual, seen, epochs=10, learning_rate=0.02)
    masked = train_under_masks(usual, seen, PATCH, epochs=10, learning_rate=0.02, seed=0)
    assert right_under_every_mask(longer, unseen) < 0.9
    assert right_under_every_mask(masked, unseen) > 0.95


def test_the_same_seed_gives_the_same_copy_and_another_another(usual: KerasClassifier) -> None:
    data = corners(200, seed=5)
    first, same, other = (
        train_under_masks(usual, data, PATCH, epochs=2, learning_rate=0.01, seed=seed).model.get_weights() for seed in (0, 0, 1)
    )
    for one, another in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, another)
    assert any((one != another).any() for one, another in zip(first, other, strict=True))
