"""Schemathesis over /docs.json: the document says what the server does, and nothing it can think of breaks the server.

It draws requests from the schemas, so the classifier has nine pixels: of 784 it could not draw one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from defences.assembly import calibrated_for
from models.bundle import Bundle, write_bundle
from tests.service.conftest import Server, end, start, wait_until_ready

# What a valid file or tensor is, JSON Schema cannot say: random ones are refused, and rightly.
_BEYOND_SCHEMAS = ("/predict/npy", "/predict/image", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
_CONFIG = {
    "seed": 0,
    "request-timeout": 20,
    "generation": {"max-examples": 25, "deterministic": True, "database": "none"},
    # Links between operations are inferred from ids of resources, and there are none here.
    "phases": {"stateful": {"enabled": False}},
    "operations": [
        {"include-path": path, "checks": {"positive_data_acceptance": {"enabled": False}}} for path in _BEYOND_SCHEMAS
    ],
}
_CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
}


@schemathesis.serializer("application/x-npy", "application/octet-stream")
def as_it_is(context: schemathesis.SerializationContext, value: Any) -> Any:
    """Schemathesis knows how to send JSON and pictures; these bodies are bytes already, or stand for anything."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier of images of 3x3 pixels behind all defences."""
    from models.engines.keras import import_tensorflow

    import_tensorflow(1)
    import keras

    directory = tmp_path_factory.mktemp("bundles") / "tiny"
    directory.mkdir()
    keras.utils.set_random_seed(0)
    keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]).save(directory / "model.keras")
    defences: list[dict[str, Any]] = [
        {"name": "total_variation", "mode": "enforce", "weight": 0.05},
        {"name": "strip", "mode": "enforce", "stages": [2, 4], "weight": 1.0, "blend": "add"},
        {"name": "reverse_sigmoid", "mode": "enforce", "beta": 1.0, "gamma": 0.1},
    ]
    classifier = {
        "file": "model.keras",
        "outputs": "logits",
        "input_range": [0.0, 1.0],
        "input_shape": [3, 3, 1],
        "labels": ["a", "b", "c"],
    }
    calibration: dict[str, Any] = {
        "strip_overlays": np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1), np.uint8),
        "strip_threshold": np.float64(0.2),
        "strip_slack": np.zeros(2),
        "strip_calibrated_for": np.array(calibrated_for(defences[1])),
    }
    settings = {"format": 1, "name": "tiny", "classifier": classifier, "defences": defences}
    return write_bundle(directory, settings=settings, calibration=calibration, card={}, example={"images": [[[0.0] * 3] * 3]})


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory, tiny: Bundle) -> Iterator[Any]:
    """The live document of a server of its own."""
    server: Server = start(tmp_path_factory.mktemp("tiny"), HAUBERK_BUNDLE=str(tiny.directory), HAUBERK_MAX_IMAGES="3")
    try:
        wait_until_ready(server)
        yield schemathesis.openapi.from_url(f"{server.url}/docs.json", config=SchemathesisConfig.from_dict(_CONFIG))
    finally:
        end(server)


def test_the_document_is_valid_openapi_3_1(schema: Any) -> None:
    assert schema.raw_schema["openapi"].startswith("3.1")
    schema.validate()


def test_schemathesis_finds_nothing(schema: Any) -> None:
    checks: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    findings, tested = [], set()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            findings.append(str(getattr(event, "info", None) or event.exception))  # type: ignore[union-attr]
        if isinstance(event, events.ScenarioFinished):
            statuses.update(one.response.status_code for one in event.recorder.interactions.values() if one.response)
            tested.add(event.recorder.label)
            for made in event.recorder.checks.values():
                checks.update(check.name for check in made)
                findings += [
                    f"{event.recorder.label} {check.name}: {check.failure_info.failure.message} {check.failure_info.code_sample}"
                    for check in made
                    if check.failure_info
                ]
    assert findings == []
    assert set(checks) >= _CHECKS
    operations = {f"{method.upper()} {path}" for path, item in schema.raw_schema["paths"].items() for method in item}
    untested = {operation for operation in operations - tested if not operation.startswith("PARAMETERS ")}
    assert untested <= {"GET /docs.json"}  # where it read the document
    assert {200, 400, 404, 405, 415, 422} <= set(statuses)
