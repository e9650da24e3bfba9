"""The OpenAPI document of `/docs.json`, with the shapes and limits of the bundle that is served."""

from __future__ import annotations

from typing import Any

from models.bundle import Bundle
from service.errors import PLACES_AT_MOST, Problem, every_problem

Document = dict[str, Any]


def document(bundle: Bundle, images_at_most: int, software: str) -> Document:
    """The document.

    Args:
        bundle: what is served.
        images_at_most: per request.
        software: the version of this software.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Hauberk: {bundle.name}",
            "version": software,
            "description": f"Model {bundle.name}, version {bundle.version}, behind its defences. They may abstain from an image.",
        },
        "paths": {
            "/predict": {"post": _predict()},
            "/livez": {"get": _text("Whether the process answers.", "health")},
            "/readyz": {"get": _text("Whether the classifier is warm and takes work.", "health", 503)},
            "/metrics": {"get": _text("Prometheus metrics, for this machine only.", "metrics", 404)},
            "/docs.json": {"get": _json("This document.", "documentation")},
            "/schema.json": {"get": _json("BentoML's description of the service, for its clients.", "documentation")},
            "/": {"get": _json("What is served, and where to read on.", "documentation")},
        },
        "components": {
            "schemas": {
                "Images": _images(bundle.input_shape, images_at_most),
                "Answer": _answer(bundle.name, bundle.version),
                "Prediction": _prediction(bundle.labels),
                "Problem": _problem(),
            },
            "headers": {"X-Request-ID": {"description": "As sent when well-formed, else minted.", "schema": {"type": "string"}}},
        },
    }


def _array(items: Document, least: int, most: int) -> Document:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _nested(shape: tuple[int, ...]) -> Document:
    pixel: Document = {"type": "number", "minimum": 0, "maximum": 1}
    for size in reversed(shape):
        pixel = _array(pixel, size, size)
    return pixel


def _images(input_shape: tuple[int, int, int], images_at_most: int) -> Document:
    h, w, c = input_shape
    batches = [_array(_nested(input_shape), 1, images_at_most)]
    if c == 1:
        batches.insert(0, _array(_nested((h, w)), 1, images_at_most))
    return {
        "type": "object",
        "properties": {"images": {"oneOf": batches} if c == 1 else batches[0]},
        "required": ["images"],
        "additionalProperties": False,
    }


def _answer(model: str, model_version: str) -> Document:
    properties = {
        "model": {"type": "string", "const": model},
        "model_version": {"type": "string", "const": model_version},
        "request_id": {"type": "string"},
        "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _prediction(labels: tuple[str, ...]) -> Document:
    k = len(labels)
    properties = {
        "label": {"enum": [*labels, None], "description": "null where the defences abstained"},
        "probabilities": {
            "oneOf": [_array({"type": "number", "minimum": 0, "maximum": 1}, k, k), {"type": "null"}],
            "description": f"of {', '.join(labels[:20])}{', ...' if k > 20 else ''}; null where the defences abstained",
        },
        "abstained": {"type": "boolean"},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _problem() -> Document:
    place = {"type": "object", "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}}
    properties = {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": [problem.code for problem in every_problem()]},
        "request_id": {"type": "string"},
    }
    required = list(properties)
    properties["errors"] = {"type": "array", "items": place, "maxItems": PLACES_AT_MOST}
    return {"type": "object", "properties": properties, "required": required, "description": "RFC 9457"}


def _predict() -> Document:
    return {
        "operationId": "predict",
        "summary": "Classify images, each purified, checked and answered with blurred probabilities, or abstained from.",
        "tags": ["prediction"],
        "parameters": [
            {"name": "X-Request-ID", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 128}},
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Images"}}},
        },
        "responses": {
            "200": _response("The predictions, in the order of the images.", "application/json", "Answer"),
            **_refusals(400, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _response(description: str, media_type: str, schema: str) -> Document:
    return {
        "description": description,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _refusals(*statuses: int) -> Document:
    problems: dict[int, list[type[Problem]]] = {status: [] for status in statuses}
    for problem in every_problem():
        if problem.status in problems:
            problems[problem.status].append(problem)
    return {str(status): _refusal(of_status) for status, of_status in problems.items()}


def _refusal(problems: list[type[Problem]]) -> Document:
    description = "; ".join(f"{problem.code}: {(problem.__doc__ or '').strip()}" for problem in problems)
    response = _response(description, "application/problem+json", "Problem")
    if any(name == b"retry-after" for problem in problems for name, _ in problem.headers):
        response["headers"]["Retry-After"] = {"description": "In seconds.", "schema": {"type": "integer"}}
    return response


def _text(summary: str, tag: str, *refusals: int) -> Document:
    return _get(summary, tag, "text/plain", {"type": "string"}, refusals)


def _json(summary: str, tag: str) -> Document:
    return _get(summary, tag, "application/json", {"type": "object"}, ())


def _get(summary: str, tag: str, media_type: str, schema: Document, refusals: tuple[int, ...]) -> Document:
    headers = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    answer = {"description": summary, "headers": headers, "content": {media_type: {"schema": schema}}}
    return {"summary": summary, "tags": [tag], "responses": {"200": answer, **_refusals(*refusals)}}
