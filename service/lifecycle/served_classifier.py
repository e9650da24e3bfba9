"""The classifier that a server serves: the model in its bundle, or the one that a model server serves for it."""

from __future__ import annotations

from models.bundle import Bundle
from models.classifier import Classifier
from models.engines.bundle_classifier import classifier_of
from models.engines.remote.calls import RemoteObserver
from models.engines.remote.opening import open_remote
from models.errors import InvalidInput
from service.settings import Settings


def served_classifier(settings: Settings, bundle: Bundle, observer: RemoteObserver | None = None) -> Classifier:
    """The bundle's classifier; one on a model server is called within the deadline, and `observer` is told of its calls.

    Raises: InvalidInput: it cannot be opened; a model server that does not answer, or serves another model.
    """
    if bundle.engine != "remote":
        if settings.remote is not None:
            raise InvalidInput(
                f"HAUBERK_REMOTE says where a classifier is served, but the bundle {bundle.name} has a model of its own; leave "
                "HAUBERK_REMOTE out, or serve another bundle"
            )
        return classifier_of(bundle, threads=settings.threads)
    options, patience_s = settings.remote_options, settings.remote_wait_s
    return open_remote(bundle, options, address=settings.remote, observer=observer, patience_s=patience_s)
