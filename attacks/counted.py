"""A differentiable classifier that counts the forward and backward passes spent on each attacked image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal, ImageIndices, predicted_labels
from models.classifier import DifferentiableClassifier, Images, Labels, Logits, Loss, LossGradient


class Counted:
    """Calls a classifier on batches of n attacked images and counts the passes per image.

    Attributes:
        queries: int64 [n], forward passes, those of gradients included.
        gradients: int64 [n], backward passes.

    `rows` says which attacked images a batch holds; no image is in a batch twice.
    """

    def __init__(self, classifier: DifferentiableClassifier, images: int) -> None:
        self._classifier = classifier
        self.queries, self.gradients = np.zeros(images, np.int64), np.zeros(images, np.int64)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self._classifier.labels)

    def reached(self, images: Images, rows: ImageIndices, goal: Goal) -> NDArray[np.bool_]:
        """Whether `predict` confirms the goal for images [m, h, w, c]: bool [m]. `goal` is that of all n images."""
        if not rows.size:
            return np.empty(0, bool)
        self.queries[rows] += 1
        return goal.take(rows).reached(predicted_labels(self._classifier.predict(images)))

    def confirmed(self, logits: Logits, images: Images, rows: ImageIndices, goal: Goal) -> NDArray[np.bool_]:
        """Whether images of known logits [m, k] reach the goal, confirmed by `predict` (which may refuse): bool [m].

        Cost: one query per image whose logits reach the goal.
        """
        found = goal.take(rows).reached(logits.argmax(axis=1))
        hopeful = np.flatnonzero(found)
        found[hopeful] = self.reached(images[hopeful], rows[hopeful], goal)
        return found

    def logits(self, images: Images, rows: ImageIndices) -> Logits:
        """See `DifferentiableClassifier.logits`."""
        self.queries[rows] += 1
        return self._classifier.logits(images)

    def loss_gradient(self, images: Images, rows: ImageIndices, labels: Labels, loss: Loss) -> LossGradient:
        """See `DifferentiableClassifier.loss_gradient`; `labels` int64 [m] belong to these images."""
        self.queries[rows] += 1
        self.gradients[rows] += 1
        return self._classifier.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images, rows: ImageIndices) -> NDArray[np.float32]:
        """See `DifferentiableClassifier.class_gradients`."""
        self.queries[rows] += 1
        self.gradients[rows] += self.classes
        return self._classifier.class_gradients(images)
