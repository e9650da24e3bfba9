"""From settings to a warm classifier, before the first request: whatever fails or is slow the first time does so here."""

from __future__ import annotations

import gc
import logging
import sys
import time
from dataclasses import dataclass

from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier
from models.bundle import Bundle
from models.engines.remote.calls import RemoteObserver
from models.speed import seconds_per_call
from service.lifecycle.request_limit import CallTimes, images_per_request
from service.lifecycle.served_classifier import served_classifier
from service.lifecycle.warm_up import warm_up
from service.settings import Settings

logger = logging.getLogger(__name__)

_TURN_S = 1e-5


@dataclass(frozen=True)
class Warm:
    """A defended classifier, warm, how many images a request may hold, and the seconds that a model call takes here."""

    defended: DefendedClassifier
    max_images: int
    call_s: float = 0.0


def load(settings: Settings, bundle: Bundle, observer: RemoteObserver | None = None) -> Warm:
    """Load, assemble, measure, warm up: seconds of work, not for the event loop. Raises: InvalidInput, one sentence.

    Every part is logged, and bounded but for the loading: measuring and warming up take 10 s at most, and for a classifier whose call
    takes seconds, a few calls more.
    """
    if settings.secret_is_random:
        logger.warning(
            "no HAUBERK_SECRET_FILE is set: a random secret was drawn; answers change with a restart and between replicas"
        )
    started = time.monotonic()
    classifier = served_classifier(settings, bundle, observer)
    defended = assemble(bundle, classifier, secret=settings.secret, modes=settings.modes, threads=settings.threads)
    _tell("the classifier is loaded", started)
    here = seconds_per_call(classifier, rows_at_most=settings.batch_images)
    max_images = images_per_request(settings, defended.calls_at_most, CallTimes(bundle.seconds_per_call, here))
    _tell("the classifier is timed", started, call_ms=round(1000 * here, 3), images_per_request=max_images)
    warm_up(defended, settings.batch_images, seconds_per_call=here)
    _tell("the defences are warm", started)
    return Warm(defended, max_images, here)


def tune_the_interpreter() -> None:
    """Set the interpreter up for serving: the garbage collector skips all objects of the start, and threads take turns more often.

    A full collection would visit every module. The event loop and the worker take Python's lock from each other all the time, and
    more is answered when neither has to wait for Python's 5 ms (docs/decisions/0006).
    """
    gc.collect()
    gc.freeze()
    gc.enable()  # a worker imports without it
    sys.setswitchinterval(_TURN_S)


def _tell(event: str, started: float, **more: float) -> None:
    logger.info(event, extra={"fields": {"after_s": round(time.monotonic() - started, 1), **more}})
