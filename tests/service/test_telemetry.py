"""The audit log and the spans of a real server: all that it decided is told, and nothing else."""

from __future__ import annotations

import io
import itertools
import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from defences.assembly import assemble
from models.bundle import Bundle
from models.engines.keras import KerasClassifier
from service.observing.audit_events import audit_key, image_hashes
from service.observing.audit_log import REFUSALS_S
from tests.service.collector import Collector, collecting
from tests.unit.service.audit_lines import read

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["queue", "purify", "abstain", "predict", "abstain", "obscure"]
# Enough for what is asked below, and not for 64 more.
BUDGET = 100
REFUSED = 20


@dataclass
class Told:
    """What a server answered, and what it had told others when it had ended."""

    answers: dict[str, httpx.Response] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    exit_code: int = -1
    files: list[Path] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def decisions(self) -> dict[str, list[dict[str, Any]]]:
        """Lines by request, in their order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self.events:
            if event["event"] == "decision":
                found.setdefault(event["request_id"], []).append(event)
        return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def told(
    launch: Callable[..., AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
    backdoored: Bundle,
    digits: Any,
    triggered: Any,
    key: str,
    collector: Collector,
) -> Told:
    """A server's whole life: it is asked, and stopped right behind the last answer."""
    directory = tmp_path_factory.mktemp("telemetry")
    settings = {
        "HAUBERK_AUDIT_FILE": str(directory / "audit.jsonl"),
        "HAUBERK_AUDIT_BYTES": "4000",
        "HAUBERK_AUDIT_FILES": "100",
        "HAUBERK_TRACING": "on",
        "HAUBERK_IMAGES_PER_MINUTE": str(BUDGET),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    told = Told()
    told.images = {
        "clean": digits[0][:3],
        "mixed": np.stack([digits[0][3], triggered[0]]),
        "npy": triggered[1:5],
        "v2": digits[0][4:8],
    }
    with launch(directory, HAUBERK_BUNDLE=str(backdoored.directory), HAUBERK_SECRET=key, **settings) as server:
        _ask(server, backdoored, told)
        lost = [f'hauberk_audit_lines_lost_total{{reason="{reason}"}}' for reason in ("queue", "disk")]
        outcomes = [f'hauberk_predictions_total{{outcome="{outcome}"}}' for outcome in ("answered", "abstained")]
        told.counted = {sample: server.metric(sample) for sample in (*lost, *outcomes)}
        last = server.ask(told.images["clean"].tolist(), **{"X-Request-ID": "last"})
        told.answers["last"], told.images["last"] = last, told.images["clean"]
        told.exit_code = server.stop()
        told.log = server.log.read_text().splitlines()
    told.files = sorted(directory.glob("audit*"), key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0)
    told.events = read(line for path in told.files for line in path.read_bytes().splitlines())
    return told


def _ask(server: Any, bundle: Bundle, told: Told) -> None:
    images, answers = told.images, told.answers
    parent = f"00-{TRACE}-{SPAN}-01"
    answers["clean"] = server.ask(images["clean"].tolist(), **{"X-Request-ID": "clean", "traceparent": parent})
    answers["mixed"] = server.ask(images["mixed"].tolist(), **{"X-Request-ID": "mixed"})
    file = io.BytesIO()
    np.save(file, images["npy"])
    answers["npy"] = server.send_to(
        "/predict/npy", file.getvalue(), content_type="application/x-npy", x_request_id="npy", traceparent="00-nonsense"
    )
    tensor = {"name": "images", "datatype": "FP32", "shape": [4, 28, 28], "data": images["v2"].ravel().tolist()}
    path = f"/v2/models/{bundle.name}/infer"
    answers["v2"] = server.send_to(path, json.dumps({"inputs": [tensor]}).encode(), x_request_id="v2")
    answers["out of range"] = server.ask([[[2.0] * 28] * 28])
    answers["lost"] = httpx.get(f"{server.url}/nowhere")
    for number in range(1 + REFUSED):
        refused = server.ask(np.zeros((64, 28, 28)).tolist(), **{"X-Request-ID": f"much-{number}"})
        answers[f"much-{number}"] = refused


def test_the_requests_were_answered_as_they_are_without_telemetry(told: Told) -> None:
    assert {name: answer.status_code for name, answer in told.answers.items()} == {
        "clean": 200,
        "mixed": 200,
        "npy": 200,
        "v2": 200,
        "out of range": 422,
        "lost": 404,
        "much-0": 200,
        **{f"much-{number}": 429 for number in range(1, 1 + REFUSED)},
        "last": 200,
    }
    assert [each["abstained"] for each in told.answers["mixed"].json()["predictions"]] == [False, True]
    assert all(each["abstained"] for each in told.answers["npy"].json()["predictions"])
    assert told.exit_code == 0


def test_every_decision_has_its_line_under_its_request_id_up_to_the_end(told: Told) -> None:
    lines = told.decisions()
    assert {name: len(found) for name, found in lines.items()} == {
        "clean": 3,
        "mixed": 2,
        "npy": 4,
        "v2": 4,
        "much-0": 64,
        "last": 3,
    }
    counted = sum(value for sample, value in told.counted.items() if "predictions" in sample)
    assert sum(map(len, lines.values())) == counted + 3  # the last three came after the metrics were read
    assert {value for sample, value in told.counted.items() if "lost" in sample} == {0}
    assert [event["sequence"] for event in told.events] == list(range(len(told.events)))
    assert [told.events[0]["event"], told.events[-1]["event"]] == ["started", "stopped"]
    assert told.events[-1]["lost"] == 0


def test_a_line_says_what_the_client_was_answered_and_why(told: Told) -> None:
    for name in ("clean", "mixed", "npy", "last"):
        answered = told.answers[name].json()
        for row, (line, prediction) in enumerate(zip(told.decisions()[name], answered["predictions"], strict=True)):
            assert (line["row"], line["rows"]) == (row, len(answered["predictions"]))
            assert line["label"] == prediction["label"]
            assert line["outcome"] == ("abstained" if prediction["abstained"] else "answered")
            assert line["findings"] == ([{"defence": "strip", "mode": "enforce"}] if prediction["abstained"] else [])
            assert (line["model"], line["model_version"]) == (answered["model"], answered["model_version"])
    assert {line["route"] for line in told.decisions()["v2"]} == {"/v2/models/{model}/infer"}


def test_an_image_is_there_as_its_keyed_hash_and_in_no_other_way(told: Told, key: str) -> None:
    for name, lines in told.decisions().items():
        if name in told.images:
            images = told.images[name][..., None].astype(np.float32)
            assert [line["image_hash"] for line in lines] == image_hashes(images, audit_key(key.encode()))
    text = b"".join(path.read_bytes() for path in told.files)
    assert key.encode() not in text
    assert b"probabilities" not in text
    assert max(map(len, text.splitlines())) < 700


def test_a_decision_can_be_made_again_from_the_image_the_secret_and_the_bundle(told: Told, backdoored: Bundle, key: str) -> None:
    stack = assemble(backdoored, KerasClassifier.from_bundle(backdoored), secret=key.encode())
    again = stack.classify(told.images["mixed"][..., None].astype(np.float32))
    (strip,) = again.trace.detections
    lines = told.decisions()["mixed"]
    assert [bool(line["findings"]) for line in lines] == strip.abstained.tolist()
    assert [line["label"] for line in lines] == [None if each < 0 else backdoored.labels[each] for each in again.labels]


def test_refused_requests_share_lines_and_other_mistakes_have_none(told: Told) -> None:
    refusals = [event for event in told.events if event["event"] == "refusal"]
    assert {event["code"] for event in refusals} == {"budget_spent"}
    assert sum(event["count"] for event in refusals) == REFUSED
    # The first refusal of a second is written at once and the others together; a slow machine needs several seconds for them all.
    first, last = (datetime.fromisoformat(refusals[i]["time"]) for i in (0, -1))
    assert len(refusals) <= 2 * (1 + int((last - first).total_seconds() / REFUSALS_S))
    assert refusals[0]["request_id"] == "much-1"


def test_a_full_file_is_rotated_and_all_are_for_their_owner_only(told: Told) -> None:
    assert len(told.files) > 3
    assert max(path.stat().st_size for path in told.files) <= 4000
    assert {stat.S_IMODE(path.stat().st_mode) for path in told.files} == {0o600}


def test_a_request_is_a_trace_with_a_span_a_stage(told: Told, collector: Collector) -> None:
    request, *stages = collector.of_trace(TRACE)
    assert (request["name"], request["parent"], request["scope"]) == ("POST /predict", SPAN, "hauberk")
    assert request["attributes"] == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "hauberk.request_id": "clean",
        "hauberk.images": 3,
        "hauberk.abstained": 0,
    }
    assert [stage["name"] for stage in stages] == STAGES
    assert {stage["parent"] for stage in stages} == {request["id"]}
    assert all(request["started"] <= stage["started"] <= stage["ended"] <= request["ended"] for stage in stages)
    assert all(one["ended"] <= next_["started"] for one, next_ in itertools.pairwise(stages))
    assert collector.resource["service.name"] == "hauberk"
    assert collector.resource["hauberk.model"] == told.answers["clean"].json()["model"]


def test_every_request_of_a_known_path_is_traced_and_nobody_else_makes_spans(told: Told, collector: Collector) -> None:
    requests = [span for span in collector.spans if "http.route" in span["attributes"]]
    known = Counter(answer.status_code for name, answer in told.answers.items() if name != "lost")
    assert Counter(span["attributes"]["http.response.status_code"] for span in requests) == known
    assert {span["attributes"]["http.route"] for span in requests} == {"/predict", "/predict/npy", "/v2/models/{model}/infer"}
    assert {span["scope"] for span in collector.spans} == {"hauberk"}
    npy = next(span for span in requests if span["attributes"]["hauberk.request_id"] == "npy")
    assert npy["parent"] == ""
    ids = [span["id"] for span in collector.spans]
    assert len(set(ids)) == len(ids)


def test_every_line_of_the_log_is_json(told: Told) -> None:
    assert told.log
    for line in map(json.loads, told.log):
        assert {"time", "level", "event"} <= set(line)
