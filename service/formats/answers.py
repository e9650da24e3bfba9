"""The answer to `/predict`: its model, and the writer of its JSON text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
from pydantic import BaseModel, Field, WithJsonSchema

if TYPE_CHECKING:
    from defences.defended_classifier import Decisions
    from service.formats.certificates import Certificate

JSON = b"application/json"

# BentoML drops the null of an optional list from its schema, and its client then fails to iterate over a null. A list of types it
# leaves alone.
NullableNumbers = Annotated[list[float] | None, WithJsonSchema({"type": ["array", "null"], "items": {"type": "number"}})]
NullableSize = Annotated[
    list[int] | None, WithJsonSchema({"type": ["array", "null"], "items": {"type": "integer"}, "minItems": 2, "maxItems": 2})
]


class Prediction(BaseModel):
    """The answer to one image."""

    label: str | None = Field(description="The class; null where the defences abstained.")
    probabilities: NullableNumbers = Field(description="One per class, in the order of the labels; null where they abstained.")
    abstained: bool = Field(description="Whether the image was refused as suspicious.")
    certified_patch: NullableSize = Field(
        default=None,
        description="Rows and columns: no local patch up to this size can have brought about another answer than the one to the image "
        "without that region; null where nothing is proven. Only where the operator switched it on.",
    )


class Answer(BaseModel):
    """The answer to one request."""

    model: str
    model_version: str = Field(description="The first twelve hex digits of the bundle's digest.")
    request_id: str
    predictions: list[Prediction] = Field(description="One per image, in their order.")


class AnswerWriter:
    """Writes answers of one model.

    Args:
        model, model_version: as in every answer.
        labels: the class names.
        certificate: what is said of answers that are proven; nothing is without.
    """

    def __init__(
        self, model: str, model_version: str, labels: tuple[str, ...], *, certificate: Certificate | None = None
    ) -> None:
        self._model, self._version, self._labels, self._certificate = model, model_version, labels, certificate

    def answer(self, request_id: str, decisions: Decisions) -> bytes:
        """The JSON text of an `Answer`; probabilities are written with as many digits as a float32 has."""
        labels, probabilities = decisions.labels.tolist(), decisions.probabilities
        predictions: list[dict[str, Any]] = [
            {"label": None, "probabilities": None, "abstained": True}
            if abstained
            else {"label": self._labels[labels[i]], "probabilities": probabilities[i], "abstained": False}
            for i, abstained in enumerate(decisions.abstained.tolist())
        ]
        if self._certificate is not None:
            for prediction, proven in zip(predictions, self._certificate.holds_for(decisions).tolist(), strict=True):
                prediction["certified_patch"] = self._certificate.patch if proven else None
        document = {
            "model": self._model,
            "model_version": self._version,
            "request_id": request_id,
            "predictions": predictions,
        }
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
