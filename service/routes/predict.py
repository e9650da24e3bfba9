"""The paths that take images and answer with predictions, in three formats."""

from __future__ import annotations

import math
from collections.abc import Callable

from models.classifier import Images
from service.edge.exchange import Exchange
from service.edge.site import Route
from service.formats import npy, pictures
from service.formats.answers import JSON
from service.serving import Serving

# Decoding a pixel takes as long as reading so many bytes of JSON.
_DECODING = 4


class Predict:
    """The three paths; a format is a line in `routes`, a method, and a reader in `service/formats/`.

    Args:
        serving: reads, decides and answers.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self, body_at_most: int) -> dict[str, Route]:
        """The paths, each with the media types that it reads."""
        post = frozenset(("POST",))
        picture = min(body_at_most, pictures.bytes_at_most(self._serving.bundle.input_shape))
        return {
            "/predict": Route(self.predict, post, frozenset((JSON,)), body_at_most),
            "/predict/npy": Route(self.predict_npy, post, frozenset((npy.MEDIA_TYPE,)), body_at_most),
            "/predict/image": Route(self.predict_image, post, pictures.MEDIA_TYPES, picture),
        }

    async def predict(self, exchange: Exchange) -> None:
        """POST /predict: a JSON document."""
        await self._predict(exchange, self._serving.admission.images)

    async def predict_npy(self, exchange: Exchange) -> None:
        """POST /predict/npy: a .npy file."""
        await self._predict(exchange, lambda body: npy.read(body, self._serving.tensors))

    async def predict_image(self, exchange: Exchange) -> None:
        """POST /predict/image: one PNG or JPEG picture."""
        work = _DECODING * math.prod(self._serving.bundle.input_shape)
        await self._predict(exchange, lambda body: pictures.read(body, exchange.media_type, self._serving.tensors), work)

    async def _predict(self, exchange: Exchange, read: Callable[[bytes], Images], work: int = 0) -> None:
        serving = self._serving
        serving.admitting(exchange)  # before the body is read
        images = await serving.read(exchange, read, work)
        decisions = await serving.decide(exchange, images)
        await exchange.respond(200, JSON, serving.writer.answer(exchange.request_id, decisions))
