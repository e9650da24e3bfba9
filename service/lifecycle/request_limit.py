"""How many images a request may hold: what the bundle states and the operator sets, never how busy the machine was at the start.

    limit = HAUBERK_MAX_IMAGES, or the bundle's images_per_request, or 64; of the latter two no more than HAUBERK_BATCH_IMAGES
            and HAUBERK_QUEUE_IMAGES have room for (`Settings.for_bundle`)
            fewer where HAUBERK_MAX_MODEL_CALLS, HAUBERK_DEADLINE_S or HAUBERK_RELEASE_S does not pay for the worst case

The worst case, where every image needs every probe, is reckoned with the time of a model call that the bundle's card states. So all
replicas have one limit, and it is the same after every restart. What a call takes on this machine is measured too, and only said.
A bundle that states no time is of an older version: for it the machine's own is taken.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from models.errors import InvalidInput
from service.settings import Settings

logger = logging.getLogger(__name__)

# Of the interval at which answers leave; the rest is for small steps, which cost more a call, and for the turns of others.
_SHARE_OF_RELEASE = 0.25
# A machine this many times slower than the one of the calibration is worth a word.
_MUCH_SLOWER = 3.0


@dataclass(frozen=True)
class CallTimes:
    """The seconds of one model call.

    Attributes:
        stated: in the bundle's card; none in an older bundle.
        here: on this machine, now.
    """

    stated: float | None
    here: float

    @property
    def to_reckon_with(self) -> float:
        return self.here if self.stated is None else self.stated


def images_per_request(settings: Settings, calls_at_most: int, times: CallTimes) -> int:
    """The limit, for images that can take `calls_at_most` model calls each.

    Raises: InvalidInput when the operator asked for more than fits, or when not even one image does.
    """
    _check_model_calls(settings, calls_at_most)
    limit = _fitting(settings, calls_at_most, times.to_reckon_with)
    _compare(settings, limit * calls_at_most, times)
    return limit


def _fitting(settings: Settings, calls_at_most: int, seconds_per_call: float) -> int:
    per_image = calls_at_most * seconds_per_call
    affordable = settings.max_images
    if settings.max_model_calls is not None:
        affordable = min(affordable, settings.max_model_calls // calls_at_most)
    seconds, limit, name = settings.deadline_s, "the deadline is", "HAUBERK_DEADLINE_S"
    if settings.release_s is not None:
        seconds, limit, name = _SHARE_OF_RELEASE * settings.release_s, "a quarter of HAUBERK_RELEASE_S is", "HAUBERK_RELEASE_S"
    fitting = math.floor(seconds / per_image)
    if fitting >= affordable:
        return affordable
    worst = f"an image can take {calls_at_most} model calls of {seconds_per_call * 1000:.2g} ms"
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


def _compare(settings: Settings, calls: int, times: CallTimes) -> None:
    """Say what this machine cannot do, or is slow at, for a request that takes so many calls; the limit stays."""
    if times.stated is None:
        return
    slower = times.here / times.stated
    found = (f"{times.here * 1000:.2g}", f"{slower:.1f}")
    if calls * times.here > settings.deadline_s:
        logger.warning(
            "a model call takes %s ms here, %s times what the bundle's card states: the largest request can take %.2g s in the worst "
            "case, and the deadline is %g s; give this server more processors, raise HAUBERK_DEADLINE_S, or lower "
            "HAUBERK_MAX_IMAGES on all replicas",
            *found,
            calls * times.here,
            settings.deadline_s,
        )
    elif slower >= _MUCH_SLOWER:
        logger.warning(
            "a model call takes %s ms here, %s times what the bundle's card states; the machine is slower, or busy", *found
        )
