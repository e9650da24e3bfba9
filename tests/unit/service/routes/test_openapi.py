"""The OpenAPI document has the shapes and limits of what is served."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from models.bundle import Bundle
from service.errors import every_problem
from service.formats.answers import Answer, Prediction
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
    probabilities = prediction["probabilities"]
    assert (probabilities["type"], probabilities["minItems"], probabilities["maxItems"]) == (["array", "null"], 3, 3)
    assert probabilities["items"] == {"type": "number", "minimum": 0, "maximum": 1}


def test_an_answer_has_the_members_of_its_model_and_no_other(docs: dict[str, Any]) -> None:
    for model in (Answer, Prediction):
        schema = docs["components"]["schemas"][model.__name__]
        assert list(schema["properties"]) == list(model.model_fields)
        assert schema["required"] == [name for name in model.model_fields if name != "certified_patch"]
        assert schema["additionalProperties"] is False
    assert docs["components"]["schemas"]["Answer"]["properties"]["model"]["const"] == "insects"


def test_an_answer_is_valid_by_its_schema_and_one_of_another_length_is_not(docs: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/Answer", "components": docs["components"]}
    good = {"label": "bee", "probabilities": [0.1, 0.8, 0.1], "abstained": False}
    refused = {"label": None, "probabilities": None, "abstained": True}
    answer = {"model": "insects", "model_version": "0123456789ab", "request_id": "x", "predictions": [good, refused]}
    valid = Draft202012Validator(schema)
    assert valid.is_valid(answer)
    for change in ({"label": "dog"}, {"probabilities": [0.5, 0.5]}, {"probabilities": [1.1, 0, 0]}, {"score": 0.2}):
        assert not valid.is_valid({**answer, "predictions": [good | change]})


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
