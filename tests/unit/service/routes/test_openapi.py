"""The OpenAPI document has the shapes and limits of what is served."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from models.bundle import Bundle
from service.errors import every_problem
from service.routes.openapi import document


@pytest.fixture
def docs(bundle: Bundle) -> dict[str, Any]:
    return document(bundle, 16, "1.0")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def test_a_grey_image_is_offered_with_and_without_its_channel_axis(docs: dict[str, Any]) -> None:
    flat, deep = docs["components"]["schemas"]["Images"]["properties"]["images"]["oneOf"]
    pixel = {"type": "number", "minimum": 0, "maximum": 1}
    row = {"type": "array", "items": pixel, "minItems": 3, "maxItems": 3}
    image = {"type": "array", "items": row, "minItems": 2, "maxItems": 2}
    assert flat == {"type": "array", "items": image, "minItems": 1, "maxItems": 16}
    assert deep["items"]["items"]["items"] == {"type": "array", "items": pixel, "minItems": 1, "maxItems": 1}


def test_a_colour_image_has_one_shape(bundle: Bundle) -> None:
    classifier = {**bundle.settings["classifier"], "input_shape": [32, 30, 3]}
    colour = dataclasses.replace(bundle, settings={**bundle.settings, "classifier": classifier})
    images = document(colour, 16, "1.0")["components"]["schemas"]["Images"]["properties"]["images"]
    sizes = [images["items"]["maxItems"], images["items"]["items"]["maxItems"], images["items"]["items"]["items"]["maxItems"]]
    assert sizes == [32, 30, 3]


def test_an_answer_has_one_probability_per_class(docs: dict[str, Any]) -> None:
    prediction = docs["components"]["schemas"]["Prediction"]["properties"]
    assert prediction["label"]["enum"] == ["ant", "bee", "cat", None]
    assert prediction["probabilities"]["oneOf"][0]["maxItems"] == 3


def test_every_refusal_is_listed_by_status_and_code(docs: dict[str, Any]) -> None:
    ways = [path["post"]["responses"] for path in docs["paths"].values() if "post" in path]
    for problem in every_problem():
        if problem.status not in (404, 405):
            assert any(problem.code in responses[str(problem.status)]["description"] for responses in ways)
    for responses in ways:
        assert "Retry-After" in responses["503"]["headers"]


def test_a_refusal_of_one_format_is_listed_with_that_format_only(docs: dict[str, Any]) -> None:
    def listed(path: str) -> str:
        return str(docs["paths"][path]["post"]["responses"])

    assert "malformed_json" in listed("/predict")
    assert "malformed_npy" not in listed("/predict")
    assert "malformed_json" not in listed("/predict/npy")
    assert "malformed_npy" in listed("/predict/npy")


def test_a_file_is_described_with_the_shapes_it_may_have(docs: dict[str, Any]) -> None:
    assert "(1..16, 2, 3, 1) or (1..16, 2, 3)" in docs["components"]["schemas"]["NpyFile"]["description"]


def test_every_reference_leads_somewhere_and_the_document_is_json(docs: dict[str, Any]) -> None:
    assert json.loads(json.dumps(docs)) == docs
    for reference in references(docs):
        place = docs
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
