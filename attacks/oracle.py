"""A classifier as those see it who can only ask: every answer costs a query, some are refusals, and one day there are none any more."""

from __future__ import annotations

import numpy as np

from attacks.attack import ImageIndices, NoMoreAnswers, predicted_labels
from models.classifier import Classifier, ClassifierWrapper, Images, Labels, Probabilities


class Unfailing(ClassifierWrapper):
    """A classifier that never says that it answers no more: from then on it refuses. For attacks that know refusals only.

    Attributes:
        closed: whether that is so.
        answered: images answered so far.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.closed = False
        self.answered = 0

    def predict(self, images: Images) -> Probabilities:
        """See `Classifier`."""
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
    """Asks for one attack, and counts.

    A refused image gives a row of zeros (label REFUSED), and so does an image that was not answered because the classifier answers no
    more: an attack that gets along with refusals gets along with the end of its budget, and stops when it sees `closed`.

    Args:
        classifier: who is asked.
        images: how many images the attack works on; a query is booked on one of them.

    Attributes:
        queries: int64 [images], answers so far.
    """

    def __init__(self, classifier: Classifier, images: int) -> None:
        self._classifier = Unfailing(classifier)
        self.queries = np.zeros(images, np.int64)

    @property
    def closed(self) -> bool:
        """Whether the classifier has said that it answers no more. It is not asked again."""
        return self._classifier.closed

    def probabilities(self, images: Images, owners: ImageIndices) -> Probabilities:
        """Probabilities [m, k] of images [m, h, w, c], each asked on behalf of one of the attack's images, `owners` int64 [m]."""
        before = self._classifier.answered
        probabilities = self._classifier.predict(images)
        np.add.at(self.queries, owners[: self._classifier.answered - before], 1)
        return probabilities

    def labels(self, images: Images, owners: ImageIndices) -> Labels:
        """Class indices [m], REFUSED where there is no answer."""
        return predicted_labels(self.probabilities(images, owners))
