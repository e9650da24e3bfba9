"""The Open Inference Protocol v2 over HTTP: Triton's own client, JSON and binary tensors, and every way to be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

INFER = "/v2/models/backdoored/infer"
ZEROS = np.zeros((1, 28, 28), np.float32)

CLIENT = """
import json, sys
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

address, version, file = sys.argv[1:]
images = np.load(file)
client = InferenceServerClient(address)
model = "backdoored"
states = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model), client.is_model_ready(model, version)]
states += [not client.is_model_ready("other"), not client.is_model_ready(model, "1")]
metadata = [client.get_server_metadata(), client.get_model_metadata(model), client.get_model_metadata(model, version)]

def infer(values, datatype, binary, outputs=None, **options):
    tensor = InferInput("images", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    wanted = None if outputs is None else [InferRequestedOutput(name, binary_data=binary) for name in outputs]
    result = client.infer(model, [tensor], outputs=wanted, **options)
    arrays = {name: result.as_numpy(name) for name in ("probabilities", "label", "abstained")}
    return {
        "id": result.get_response().get("id"),
        **{name: [str(array.dtype), array.tolist()] for name, array in arrays.items() if array is not None},
    }

every = ["probabilities", "label", "abstained"]
as_bytes = np.round(images * 255).astype(np.uint8)
answers = [
    infer(images, "FP32", True, request_id="a"),
    infer(images, "FP32", False, every, request_id="a"),
    infer(images, "FP32", True, every, request_id="a", model_version=version, timeout=1000),
    infer(as_bytes, "UINT8", True, request_id="a"),
    infer(as_bytes[..., None], "UINT8", False, request_id="a"),
    infer(as_bytes.astype(np.int64), "INT64", True, request_id="a"),
    infer(images.astype(np.float64), "FP64", True, request_id="a"),
    infer(images, "FP32", True, request_id="a", response_compression_algorithm="gzip"),
]
only = infer(images, "FP32", True, ["label"])
refusals = []
for options in ({"model_version": "1"}, {"outputs": ["scores"]}, {"request_compression_algorithm": "gzip"}):
    try:
        infer(images, "FP32", True, **options)
    except InferenceServerException as refusal:
        refusals.append([refusal.status(), refusal.message()])
print(json.dumps([states, metadata, answers, only, refusals]))
"""


def test_tritons_own_client_works_unchanged(
    server: Any, digits: Any, triggered: Any, backdoored: Any, tmp_path_factory: Any
) -> None:
    images = np.concatenate([digits[0][:4], triggered[:2]])
    file = tmp_path_factory.mktemp("triton") / "images.npy"
    np.save(file, images)
    command = [sys.executable, "-c", CLIENT, server.url.removeprefix("http://"), backdoored.version, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    states, (server_metadata, *models), (first, *others), only, refusals = json.loads(ran.stdout)
    assert all(states)
    assert (server_metadata["name"], server_metadata["extensions"]) == ("hauberk", ["binary_tensor_data"])
    assert models[0] == models[1]
    assert models[0]["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert [[output["name"], output["shape"]] for output in models[0]["outputs"]] == [
        ["probabilities", [-1, 10]],
        ["label", [-1]],
        ["abstained", [-1]],
    ]
    assert [first[name][0] for name in ("probabilities", "label", "abstained")] == ["float32", "int64", "bool"]
    wanted = server.ask(images.tolist()).json()["predictions"]
    assert first["abstained"][1] == [prediction["abstained"] for prediction in wanted]
    assert first["abstained"][1][4:] == [True, True]
    assert first["label"][1] == [-1 if p["abstained"] else int(p["label"]) for p in wanted]
    expected = np.array([p["probabilities"] or [0.0] * 10 for p in wanted])
    for answer in (first, *others):
        assert (answer["id"], answer["label"], answer["abstained"]) == ("a", first["label"], first["abstained"])
        assert np.allclose(answer["probabilities"][1], expected, atol=1e-4)
    assert only == {"id": None, "label": first["label"]}
    assert [status for status, _ in refusals] == ["404", "400", "415"]


def document(**changes: Any) -> bytes:
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 28, 28], "data": ZEROS.ravel().tolist()} | changes
    return json.dumps({"inputs": [{name: value for name, value in tensor.items() if value is not ...}]}).encode()


def binary(data: bytes, **changes: Any) -> tuple[bytes, dict[str, str]]:
    text = document(data=..., parameters={"binary_data_size": changes.pop("size", len(data))}, **changes)
    return text + data, {"inference_header_content_length": str(len(text))}


def refusal(response: httpx.Response) -> int:
    """Check that a response is an error of the protocol, and return its status."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert list(response.json()) == ["error"]
    assert len(response.content) < 300
    return response.status_code


def test_json_goes_in_and_out_without_a_word_about_binary(server: Any) -> None:
    response = server.send_to(INFER, document(), content_type="application/json", x_request_id="abc")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.headers["x-request-id"] == "abc"
    assert "inference-header-content-length" not in response.headers
    answer = response.json()
    assert answer["model_name"] == "backdoored"
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "label", "abstained"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (document(name="image"), 400),
        (document(data=...), 400),
        (document(datatype="BOOL"), 422),
        (document(datatype="BYTES"), 422),
        (document(shape=[1, 27, 28]), 422),
        (document(shape=[10**18, 10**18, 10**18]), 422),
        (document(shape=[65, 28, 28]), 422),
        (document(shape=[0, 28, 28]), 422),
        (document(shape=[-1, 28, 28]), 422),
        (document(data=[0.0] * 783), 422),
        (document(data=["0"] * 784), 422),
        (document(data=[2] * 784), 422),
        (document(data=[1e39] * 784), 422),
        (document(data=[float("nan")] * 784), 400),
        (b" " * 3_000_000, 413),
    ],
)
def test_bad_requests_are_refused_with_a_short_reason(server: Any, body: bytes, status: int) -> None:
    assert refusal(server.send_to(INFER, body)) == status


@pytest.mark.parametrize(
    ("data", "changes", "length", "status"),
    [
        (ZEROS.tobytes(), {}, None, 200),
        (ZEROS.astype(np.uint8).tobytes(), {"datatype": "UINT8"}, None, 200),
        (ZEROS.tobytes()[:-1], {}, None, 400),
        (ZEROS.tobytes() + b"\0", {}, None, 400),
        (ZEROS.tobytes(), {"size": 3135}, None, 400),
        (ZEROS.tobytes(), {"size": 10**18}, None, 400),
        (ZEROS.tobytes(), {"size": -1}, None, 400),
        (ZEROS.tobytes(), {"size": "3136"}, None, 400),
        (ZEROS.tobytes(), {"datatype": "UINT8"}, None, 400),
        (ZEROS.tobytes(), {"shape": [64, 28, 28]}, None, 400),
        (ZEROS.tobytes(), {"shape": [10**9, 28, 28]}, None, 422),
        (ZEROS.tobytes(), {}, "", 400),
        (ZEROS.tobytes(), {}, "0", 400),
        (ZEROS.tobytes(), {}, "-1", 400),
        (ZEROS.tobytes(), {}, "10", 400),
        (ZEROS.tobytes(), {}, "9" * 30, 400),
        ((ZEROS + np.float32(np.nan)).tobytes(), {}, None, 422),
        ((ZEROS + 2).tobytes(), {}, None, 422),
    ],
)
def test_binary_tensors_are_taken_and_lies_about_their_sizes_are_not(
    server: Any, data: bytes, changes: dict[str, Any], length: str | None, status: int
) -> None:
    body, headers = binary(data, **changes)
    if length is not None:
        headers["inference_header_content_length"] = length
    response = server.send_to(INFER, body, content_type="application/octet-stream", **headers)
    assert (response.status_code if status == 200 else refusal(response)) == status


def test_a_binary_tensor_without_its_header_is_refused(server: Any) -> None:
    assert refusal(server.send_to(INFER, binary(b"\xff" * 3136)[0])) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/models",
        "/v2/models/other/infer",
        "/v2/models/backdoored/versions/1/infer",
        "/v2/models/backdoored/versions/1",
        "/v2/models/backdoored/config",
        "/v2/repository/index",
        "/v2/systemsharedmemory/status",
    ],
)
def test_other_models_versions_and_extensions_are_404(server: Any, path: str) -> None:
    assert refusal(server.send_to(path, document())) == refusal(httpx.get(server.url + path)) == 404


def test_other_methods_media_types_and_encodings_are_refused(server: Any) -> None:
    assert refusal(httpx.get(server.url + INFER)) == 405
    assert refusal(server.send_to("/v2/health/ready", b"")) == 405
    assert refusal(server.send_to(INFER, document(), content_type="application/vnd.bentoml+pickle")) == 415
    assert refusal(server.send_to(INFER, document(), content_encoding="gzip")) == 415


def test_health_and_metadata_answer_with_a_request_id(server: Any, backdoored: Any) -> None:
    version = f"/v2/models/backdoored/versions/{backdoored.version}"
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/backdoored", version, f"{version}/ready"):
        response = httpx.get(server.url + path)
        assert response.status_code == 200
        assert response.headers["x-request-id"]


def test_requests_are_counted_under_templates_and_no_name_becomes_a_label(server: Any, backdoored: Any) -> None:
    server.send_to(INFER, document())
    server.send_to(f"/v2/models/backdoored/versions/{backdoored.version}/infer", document())
    server.send_to("/v2/models/no-such-model/infer", document())
    assert server.metric('hauberk_requests_total{code="200",route="/v2/models/{model}/infer"}') >= 1
    assert server.metric('hauberk_requests_total{code="200",route="/v2/models/{model}/versions/{version}/infer"}') >= 1
    text = httpx.get(f"{server.url}/metrics").text
    assert "no-such-model" not in text
    assert "/v2/models/backdoored" not in text
