"""The OpenAPI document of `/docs.json`, with the shapes and limits of the bundle that is served."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from models.bundle import Bundle
from service.errors import (
    PLACES_AT_MOST,
    Forbidden,
    MalformedInference,
    MalformedJson,
    MalformedNpy,
    MalformedPicture,
    Problem,
    WrongDatatype,
    WrongDocument,
    WrongMode,
    WrongType,
    every_problem,
)
from service.formats.answers import Answer
from service.formats.open_inference import DATATYPES, OUTPUTS

Document = dict[str, Any]
_LABELS_SHOWN = 20


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
            "/predict": {"post": _predict("predict", {"application/json": "Images"}, MalformedJson, WrongDocument, WrongType)},
            "/predict/npy": {"post": _predict("predict_npy", {"application/x-npy": "NpyFile"}, MalformedNpy, WrongDatatype)},
            "/predict/image": {"post": _predict("predict_image", _PICTURES, MalformedPicture, WrongMode)},
            **_open_inference(bundle),
            "/livez": {"get": _text("Whether the process answers, and its worker is not stuck for good.", "health", 503)},
            "/readyz": {"get": _text("Whether the classifier is warm and takes work.", "health", 503)},
            "/metrics": {"get": _text("Prometheus metrics, for programs on this machine only.", "metrics", 404)},
            "/docs.json": {"get": _json("This document.", "documentation")},
            "/schema.json": {"get": _json("BentoML's description of the service, for its clients.", "documentation")},
            "/": {"get": _index()},
        },
        "components": {
            "schemas": {
                "Images": _images(bundle.input_shape, images_at_most),
                "NpyFile": _npy_file(bundle.input_shape, images_at_most),
                "Picture": _picture(bundle.input_shape),
                **_inference_schemas(bundle, images_at_most),
                **_answer_schemas(bundle),
                "Problem": _problem(),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {"X-Request-ID": {"description": "As sent when well-formed, else minted.", "schema": {"type": "string"}}},
        },
    }


def _index() -> Document:
    found = _json(
        "What is served, which defences are on, and where to read on; to a browser, a page that shows it.", "documentation"
    )
    found["responses"]["200"]["content"]["text/html"] = {"schema": {"type": "string"}}
    found["responses"] |= _refusals(403, but=frozenset((Forbidden,)))
    return found


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


def _answer_schemas(bundle: Bundle) -> Document:
    """The schemas of `Answer` and `Prediction`, with the bundle's name, version, labels and number of classes."""
    answer = Answer.model_json_schema(ref_template="#/components/schemas/{model}")
    prediction = answer.pop("$defs")["Prediction"]
    answer["properties"]["model"]["const"] = bundle.name
    answer["properties"]["model_version"]["const"] = bundle.version
    labels, k = bundle.labels, len(bundle.labels)
    prediction["properties"]["label"]["enum"] = [*labels, None]
    probabilities = prediction["properties"]["probabilities"]
    probabilities |= {"items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": k, "maxItems": k}
    probabilities["description"] += f" The labels: {', '.join(labels[:_LABELS_SHOWN])}{', ...' * (k > _LABELS_SHOWN)}."
    return {name: schema | {"additionalProperties": False} for name, schema in (("Answer", answer), ("Prediction", prediction))}


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


def _npy_file(input_shape: tuple[int, int, int], images_at_most: int) -> Document:
    shapes: list[tuple[str | int, ...]] = [(f"1..{images_at_most}", *input_shape)]
    if input_shape[2] == 1:
        shapes.append(shapes[0][:3])
    described = " or ".join(f"({', '.join(map(str, shape))})" for shape in shapes)
    return _binary(f"What numpy.save writes: float32 in [0, 1] or uint8, where 0 to 255 mean the same, of shape {described}.")


def _picture(input_shape: tuple[int, int, int]) -> Document:
    h, w, c = input_shape
    mode = {1: "grey", 3: "grey or RGB"}.get(c, "which none is for this classifier")
    return _binary(
        f"One picture, {w} pixels wide and {h} high once it is turned as its Exif says, {mode}. Alpha, palettes, equal channels and "
        "16 bits of grey are taken where nothing is lost."
    )


def _binary(description: str) -> Document:
    return {"type": "string", "format": "binary", "description": description}


_PICTURES = {"image/png": "Picture", "image/jpeg": "Picture"}
_INFERENCE = (MalformedJson, MalformedInference, WrongDatatype, WrongType)
# Each of these is about one way to send images.
_OF_ONE_FORMAT = frozenset((WrongDocument, MalformedNpy, MalformedPicture, WrongMode, *_INFERENCE))


def _predict(operation: str, schemas: dict[str, str], *own: type[Problem]) -> Document:
    """A way to classify images. `schemas`: of the body, by media type; `own`: those of `_OF_ONE_FORMAT` it can answer."""
    return {
        "operationId": operation,
        "summary": "Classify images, each purified, checked and answered with blurred probabilities, or abstained from.",
        "tags": ["prediction"],
        "security": _SECURITY,
        "parameters": [_REQUEST_ID],
        "requestBody": _body(schemas),
        "responses": {
            "200": _response("The predictions, in the order of the images.", "application/json", "Answer"),
            **_refusals(*_POST_REFUSALS, but=_OF_ONE_FORMAT.difference(own)),
        },
    }


_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "1 to 128 letters, digits or ._:/+=-; anything else is replaced.",
    "schema": {"type": "string"},
}
_POST_REFUSALS = (400, 401, 403, 408, 413, 415, 422, 429, 431, 500, 501, 502, 503, 504, 505)
# A key is needed only where the operator asks for keys.
_SECURITY: list[Document] = [{}, {"key": []}]


def _body(schemas: dict[str, str]) -> Document:
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}} for media_type, schema in schemas.items()}
    return {"required": True, "content": content}


def _open_inference(bundle: Bundle) -> Document:
    """The paths of the Open Inference Protocol v2, whose errors have a shape of their own."""
    tag = "open inference"

    def path_of(name: str, value: str) -> Document:
        return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}

    model, version = path_of("model", bundle.name), path_of("version", bundle.version)
    paths: Document = {
        "/v2": {"get": _json("What this server is, by the Open Inference Protocol v2.", tag)},
        "/v2/health/live": {"get": _inference_get("Whether the process answers, and its worker is not stuck for good.", 503)},
        "/v2/health/ready": {"get": _inference_get("Whether the classifier is warm and takes work.", 503)},
    }
    for path, parameters in (("/v2/models/{model}", [model]), ("/v2/models/{model}/versions/{version}", [model, version])):
        paths[path] = {"parameters": parameters, "get": _inference_get("The model's inputs and outputs.", 404)}
        paths[f"{path}/ready"] = {
            "parameters": parameters,
            "get": _inference_get("Whether the model is warm and takes work.", 404, 503),
        }
        paths[f"{path}/infer"] = {"parameters": parameters, "post": _infer("infer" if len(parameters) == 1 else "infer_version")}
    return paths


def _inference_get(summary: str, *refusals: int) -> Document:
    found = _json(summary, "open inference")
    found["responses"] |= _as_inference_errors(_refusals(*refusals))
    return found


def _infer(operation: str) -> Document:
    length: Document = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "Where the JSON ends, when a tensor lies behind it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    answered = _response("The outputs; behind the JSON those asked for as binary.", "application/json", "InferenceAnswer")
    answered["content"]["application/octet-stream"] = {"schema": _binary("An InferenceAnswer, and the tensors behind it.")}
    return {
        "operationId": operation,
        "summary": "Classify images, as the Open Inference Protocol v2 and its binary tensor extension have it.",
        "tags": ["open inference"],
        "security": _SECURITY,
        "parameters": [_REQUEST_ID, length],
        "requestBody": _body({"application/json": "Inference", "application/octet-stream": "BinaryInference"}),
        "responses": {
            "200": answered,
            **_as_inference_errors(_refusals(404, *_POST_REFUSALS, but=_OF_ONE_FORMAT.difference(_INFERENCE))),
        },
    }


def _as_inference_errors(refusals: Document) -> Document:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceError"}}}
    return {status: {**refusal, "content": error} for status, refusal in refusals.items()}


def _inference_schemas(bundle: Bundle, images_at_most: int) -> Document:
    shape = f"[1..{images_at_most}, {', '.join(map(str, bundle.input_shape))}]"
    tensor = {
        "type": "object",
        "properties": {
            "name": {"const": "images"},
            "datatype": {"enum": list(DATATYPES), "description": "Floats in [0, 1]; whole numbers from 0 to 255 mean the same."},
            "shape": _array({"type": "integer", "minimum": 1}, 3, 4) | {"description": shape},
            "data": {"type": "array", "description": "Flat or nested."},
        },
        "required": ["name", "datatype", "shape"],
    }
    output = {"type": "object", "properties": {"name": {"enum": list(OUTPUTS)}}, "required": ["name"]}
    request = {
        "id": {"type": ["string", "null"], "maxLength": 256},
        "inputs": _array(tensor, 1, 1),
        "outputs": {"type": ["array", "null"], "items": output},
    }
    names = ("model_name", "model_version", "id")
    proven = "Where the operator switched it on and every answer in the request is proven: the largest patch, such as 5x5."
    answer: Document = {
        **{name: {"type": "string"} for name in names},
        "parameters": {"type": "object", "properties": {"certified_patch": {"type": "string", "description": proven}}},
        "outputs": {"type": "array", "items": {"type": "object"}},
    }
    return {
        "Inference": {"type": "object", "properties": request, "required": ["inputs"]},
        "BinaryInference": _binary(
            "An Inference whose input has the parameter binary_data_size for data, and the tensor behind."
        ),
        "InferenceAnswer": {"type": "object", "properties": answer, "required": ["model_name", "model_version", "outputs"]},
        "InferenceError": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    }


def _response(description: str, media_type: str, schema: str) -> Document:
    return {
        "description": description,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _refusals(*statuses: int, but: Set[type[Problem]] = frozenset()) -> Document:
    problems: dict[int, list[type[Problem]]] = {status: [] for status in statuses}
    for problem in every_problem():
        if problem.status in problems and problem not in but:
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
