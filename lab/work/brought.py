"""What was brought, opened: the classifier, its images and its gradients. Who opens files stands above the lab and is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from lab.errors import Refused
from lab.subject import Subject
from models.accuracy import Judgement
from models.classifier import Classifier, DifferentiableClassifier
from models.engines.twins.capabilities import Capabilities
from models.errors import HauberkError
from models.image_rows import Samples
from models.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.bundle import Bundle


WITHOUT_DEFENCES = "this is a model without defences yet: take the defended bundle away first, and try that one"


@dataclass(eq=False)
class Brought:
    """A subject, opened.

    Attributes:
        classifier: what answers, undefended.
        data: the labelled images.
        accuracy: how right it is on some of them.
        reads: what the model is given and returns, in words.
        bundle: where the model came in one.
        with_gradients: opens the same classifier with its gradients, at first use.
    """

    classifier: Classifier
    data: Samples
    accuracy: Judgement
    reads: str
    bundle: Bundle | None
    with_gradients: Callable[[], Classifier]

    def differentiable(self, what: str) -> DifferentiableClassifier:
        """The classifier with gradients. Raises: Refused: it has none, in the field `what`."""
        able = self.able
        if not isinstance(able, DifferentiableClassifier):
            engine = Capabilities.of(able).engine
            sentence = f"this attack follows gradients, and the model is {engine}, which has none; take square or HopSkipJump"
            raise Refused(what, sentence)
        return able

    @cached_property
    def able(self) -> Classifier:
        """The classifier with whatever gradients there are."""
        return self.with_gradients()


class Bring(Protocol):
    """Opens what a subject names."""

    def __call__(self, subject: Subject, progress: Progress) -> Brought:
        """Raises: InvalidInput; `Refused` and `AnotherReading` where the field is known."""
        ...


class Commands(Protocol):
    """Runs a command of `hauberk` in this process, with the reports of its progress."""

    def __call__(self, name: str, options: dict[str, Any], progress: Progress) -> None:
        """Raises: InvalidInput."""
        ...


class Kept:
    """Opens a subject once: the warm worker is asked about the same one again and again."""

    def __init__(self, bring: Bring) -> None:
        self._bring = bring
        self._last: tuple[Subject, Brought] | None = None

    def __call__(self, subject: Subject, progress: Progress) -> Brought:
        """See `Bring`."""
        if self._last is None or self._last[0] != subject:
            self._last = None  # one at a time: two large models do not fit
            self._last = subject, self._bring(subject, progress)
        return self._last[1]


@contextmanager
def about(field_name: str) -> Iterator[None]:
    """What is refused within belongs to this field of the form."""
    try:
        yield
    except Refused:
        raise
    except HauberkError as failure:
        if hasattr(failure, "proposal"):
            raise
        raise Refused(field_name, str(failure)) from failure


def named(labels: Sequence[str], label: int) -> str:
    """The name of a class; a label the classifier does not know is its number."""
    return labels[label] if 0 <= label < len(labels) else str(label)
