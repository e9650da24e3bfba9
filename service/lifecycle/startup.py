"""From settings to a warm classifier, before the first request: whatever fails or is slow the first time does so here."""

from __future__ import annotations

import gc
import logging
import math
import sys
import time
from dataclasses import dataclass

import numpy as np

from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier
from models.bundle import Bundle
from models.classifier import Classifier
from models.engines.remote.calls import RemoteObserver
from models.errors import InvalidInput
from service.lifecycle.served_classifier import served_classifier
from service.settings import Settings

logger = logging.getLogger(__name__)

_ROUNDS = 3
_TURN_S = 1e-4
# Of the interval at which answers leave; the rest is for small steps, which cost more a call, and for the turns of others.
_SHARE_OF_RELEASE = 0.25


@dataclass(frozen=True)
class Warm:
    """A defended classifier, warm, and how many images a request may hold."""

    defended: DefendedClassifier
    max_images: int


def load(settings: Settings, bundle: Bundle, observer: RemoteObserver | None = None) -> Warm:
    """Load, assemble, measure, warm up: seconds of work, not for the event loop. Raises: InvalidInput, one sentence."""
    if settings.secret_is_random:
        logger.warning(
            "no HAUBERK_SECRET_FILE is set: a random secret was drawn; answers change with a restart and between replicas"
        )
    classifier = served_classifier(settings, bundle, observer)
    defended = assemble(bundle, classifier, secret=settings.secret, modes=settings.modes, threads=settings.threads)
    max_images = fitting_images(settings, defended, _seconds_per_call(classifier, settings.batch_images))
    warm_up(defended, settings.batch_images)
    return Warm(defended, max_images)


def fitting_images(settings: Settings, defended: DefendedClassifier, seconds_per_call: float) -> int:
    """How many images a request may hold so that the worst case, where each needs every probe, meets the deadline and the budget.

    Raises: InvalidInput when the operator asked for more, or when not even one image fits.
    """
    _check_model_calls(settings, defended.calls_at_most)
    per_image = defended.calls_at_most * seconds_per_call
    affordable = settings.max_images
    if settings.max_model_calls is not None:
        affordable = min(affordable, settings.max_model_calls // defended.calls_at_most)
    seconds, limit, name = settings.deadline_s, "the deadline is", "HAUBERK_DEADLINE_S"
    if settings.release_s is not None:
        seconds, limit, name = _SHARE_OF_RELEASE * settings.release_s, "a quarter of HAUBERK_RELEASE_S is", "HAUBERK_RELEASE_S"
    fitting = math.floor(seconds / per_image)
    if fitting >= affordable:
        return affordable
    worst = f"an image can take {defended.calls_at_most} model calls of {seconds_per_call * 1000:.2g} ms"
    if fitting < 1 or not settings.max_images_is_default:
        images = "1 image" if settings.max_images == 1 else f"{settings.max_images} images"
        wanted = 1 if settings.max_images_is_default else settings.max_images
        fewer = f"lower HAUBERK_MAX_IMAGES to {fitting} or " if fitting >= 1 else ""
        least = math.ceil(wanted * per_image) if settings.release_s is None else wanted * per_image / _SHARE_OF_RELEASE
        raise InvalidInput(
            f"{worst}, so {images} can take {settings.max_images * per_image:.2g} s and {limit} {seconds:g} s; "
            f"{fewer}raise {name} to {least:g} or more"
        )
    logger.warning("%s, so that a request may hold %d images, not %d", worst, fitting, settings.max_images)
    return fitting


def _check_model_calls(settings: Settings, calls_per_image: int) -> None:
    """Raises: InvalidInput when the budget of model calls does not pay for the images the operator asked for."""
    if settings.max_model_calls is None:
        return
    affordable = settings.max_model_calls // calls_per_image
    if affordable < 1 or not (settings.max_images_is_default or affordable >= settings.max_images):
        images = 1 if settings.max_images_is_default else settings.max_images
        raise InvalidInput(
            f"an image can take {calls_per_image} model calls, so HAUBERK_MAX_MODEL_CALLS has to be {calls_per_image * images} or "
            f"more for {images} image{'s' * (images > 1)} a request, got {settings.max_model_calls}"
        )


def warm_up(defended: DefendedClassifier, batch_images: int) -> None:
    """Run the whole path at the sizes traffic has, so that nothing compiles under it."""
    rng = np.random.default_rng(0)
    size = 1
    while size <= batch_images:
        for _ in range(_ROUNDS):
            defended.classify(rng.random((size, *defended.input_shape), np.float32))
        size *= 2


def tune_the_interpreter() -> None:
    """Set the interpreter up for serving: the garbage collector skips all objects of the start, and threads take turns more often.

    A full collection would visit every module. The event loop and the worker take Python's lock from each other all the time, and
    more is answered when neither has to wait for Python's 5 ms (docs/decisions/0006).
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_TURN_S)


def _seconds_per_call(classifier: Classifier, batch_images: int) -> float:
    """The time of one row in a large batch, the best of three: the first call also compiles."""
    rows = np.zeros((batch_images, *classifier.input_shape), np.float32)
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        classifier.predict(rows)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / batch_images
