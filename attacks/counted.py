"""A differentiable classifier that counts what every image of an attack costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal, ImageIndices, predicted_labels
from models.classifier import DifferentiableClassifier, Images, Labels, Logits, Loss, LossGradient


class Counted:
    """Asks the classifier about some of n images, and remembers which.

    Attributes, one entry per image:
        queries: forward passes, of `predict` and of gradients alike.
        gradients: backward passes.
    """

    def __init__(self, classifier: DifferentiableClassifier, images: int) -> None:
        self._classifier = classifier
        self.queries, self.gradients = np.zeros(images, np.int64), np.zeros(images, np.int64)

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self._classifier.labels)

    def reached(self, images: Images, rows: ImageIndices, goal: Goal) -> NDArray[np.bool_]:
        """Whether `predict` calls these images what the goal of all n wants: bool [m]."""
        if not rows.size:
            return np.empty(0, bool)
        self.queries[rows] += 1
        return goal.take(rows).reached(predicted_labels(self._classifier.predict(images)))

    def confirmed(self, logits: Logits, images: Images, rows: ImageIndices, goal: Goal) -> NDArray[np.bool_]:
        """Whether these images, of known logits, reach the goal: `predict` is asked where the logits say so, as it may refuse.

        bool [m]; one query for every image the logits find good.
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
        """See `DifferentiableClassifier.loss_gradient`; `labels` [m] are those of these rows."""
        self.queries[rows] += 1
        self.gradients[rows] += 1
        return self._classifier.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images, rows: ImageIndices) -> NDArray[np.float32]:
        """See `DifferentiableClassifier.class_gradients`."""
        self.queries[rows] += 1
        self.gradients[rows] += self.classes
        return self._classifier.class_gradients(images)
