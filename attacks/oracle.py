"""A black-box classifier for query attacks: it counts queries, and turns the end of the answers into refusals."""

from __future__ import annotations

import numpy as np

from attacks.attack import ImageIndices, NoMoreAnswers, predicted_labels
from models.classifier import Classifier, ClassifierWrapper, Images, Labels, Probabilities


class Unfailing(ClassifierWrapper):
    """A classifier that refuses every image from the first `NoMoreAnswers` on, for attacks that handle refusals only.

    Attributes:
        closed: whether the wrapped classifier has stopped answering.
        answered: number of images answered so far.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.closed = False
        self.answered = 0

    def predict(self, images: Images) -> Probabilities:
        """Probabilities [n, k]; rows of zeros once the wrapped classifier has stopped answering."""
        answers = np.zeros((len(images), len(self.labels)), np.float32)
        if self.closed or not len(images):
            return answers
        try:
            answered = self.classifier.predict(images)
        except NoMoreAnswers as end:
            self.closed, answered = True, end.answered
        answers[: len(answered)] = answered
        self.answered += len(answered)
        return answers


class Oracle:
    """The queries of one attack, counted per attacked image.

    A refused image gives a row of zeros (label REFUSED), and so does an image that the classifier no longer answers: an attack that
    handles refusals also handles the end of its budget, and stops when `closed` is true.

    Args:
        classifier: the attacked classifier.
        images: number of attacked images; each query is counted for one of them.

    Attributes:
        queries: int64 [images], queries answered so far.
    """

    def __init__(self, classifier: Classifier, images: int) -> None:
        self._classifier = Unfailing(classifier)
        self.queries = np.zeros(images, np.int64)

    @property
    def closed(self) -> bool:
        """Whether the classifier has stopped answering; later queries are refusals that are not sent."""
        return self._classifier.closed

    def probabilities(self, images: Images, owners: ImageIndices) -> Probabilities:
        """Probabilities [m, k] of images [m, h, w, c]; query j is counted for the attacked image `owners[j]`."""
        before = self._classifier.answered
        probabilities = self._classifier.predict(images)
        np.add.at(self.queries, owners[: self._classifier.answered - before], 1)
        return probabilities

    def labels(self, images: Images, owners: ImageIndices) -> Labels:
        """Class indices int64 [m]; REFUSED where an image was refused or not answered."""
        return predicted_labels(self.probabilities(images, owners))
