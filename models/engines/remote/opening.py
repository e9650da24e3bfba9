"""From a bundle that names a model server to a classifier that is known to be the one it was calibrated against."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from models.bundle import Bundle
from models.engines.remote.address import RemoteAddress
from models.engines.remote.calls import RemoteObserver
from models.engines.remote.classifier import RemoteClassifier
from models.engines.remote.fingerprint import Fingerprint
from models.engines.remote.options import RemoteOptions
from models.engines.remote.watch import Watch
from models.errors import InvalidInput, RemoteFailure, RemoteIsAnother
from models.preparation import Preparation

logger = logging.getLogger(__name__)

IDENTITY = "remote"
"""In a bundle's card: the address it was calibrated against, and what the server there said of the model."""
_PAUSE_S = 1.0


def identity(classifier: RemoteClassifier) -> dict[str, Any]:
    """For a bundle's card."""
    described = classifier.described
    return {
        "address": str(classifier.address),
        "model": described.model,
        "version": classifier.version,
        "platform": described.platform,
        "input": str(classifier.taken),
        "output": str(classifier.given),
    }


def open_remote(
    bundle: Bundle,
    options: RemoteOptions,
    *,
    address: str | None = None,
    observer: RemoteObserver | None = None,
    patience_s: float = 0.0,
) -> RemoteClassifier:
    """The remote classifier of a bundle.

    Args:
        address: where the same model is served here; where the bundle says, when not given.
        patience_s: how long to wait for a server that is not there yet.

    Raises: InvalidInput, one sentence: nobody answers, something else does, or another model.
    """
    settings = bundle.settings["classifier"]
    where = RemoteAddress.parse(address or settings["remote"])
    fingerprint = _fingerprint(bundle)
    until = time.monotonic() + patience_s
    while True:
        try:
            return _opened(bundle, settings, where, options, observer, fingerprint)
        except RemoteIsAnother as other:
            raise InvalidInput(str(other)) from other
        except RemoteFailure as failure:
            if time.monotonic() + _PAUSE_S > until:
                raise InvalidInput(f"{failure}; the bundle's classifier is served there") from failure
            logger.warning("waiting for the bundle's classifier: %s", failure)
            time.sleep(_PAUSE_S)


def watch(bundle: Bundle, classifier: RemoteClassifier) -> Watch:
    """Looks at the bundle's probes while it serves; not started yet."""
    return Watch(partial(classifier.look, _fingerprint(bundle)), classifier.circuit)


def _opened(
    bundle: Bundle,
    settings: Mapping[str, Any],
    where: RemoteAddress,
    options: RemoteOptions,
    observer: RemoteObserver | None,
    fingerprint: Fingerprint,
) -> RemoteClassifier:
    classifier = RemoteClassifier(
        where,
        options,
        input_shape=bundle.input_shape,
        labels=bundle.labels,
        preparation=Preparation.from_settings(settings),
        outputs=settings["outputs"],
        output=settings.get("output"),
        version=bundle.card.get(IDENTITY, {}).get("version") or None,
        observer=observer,
    )
    try:
        fingerprint.check(classifier.asked, where)
        _say_what_changed(bundle.card.get(IDENTITY, {}), identity(classifier))
    except BaseException:
        classifier.close()
        raise
    return classifier


def _say_what_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """The same answers to the probes by another name or on another platform are the same model, moved: said, and served."""
    for what in ("model", "platform"):
        if then.get(what, now[what]) != now[what]:
            logger.warning(
                "the bundle was calibrated against %s %r, which is %r now, with the same answers", what, then[what], now[what]
            )


def _fingerprint(bundle: Bundle) -> Fingerprint:
    return Fingerprint.from_arrays(bundle.calibration, bundle.input_shape, len(bundle.labels))
