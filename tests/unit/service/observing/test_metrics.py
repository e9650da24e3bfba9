"""The metrics of the contract: their names and labels, and what moves them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from defences.errors import StageFailure
from service.errors import every_problem
from service.observing.metrics import Metrics, new_registry

CONTRACT = {
    "hauberk_requests": ("counter", {"route", "code"}),
    "hauberk_request_duration_seconds": ("histogram", {"route"}),
    "hauberk_predictions": ("counter", {"outcome"}),
    "hauberk_abstentions": ("counter", {"defence", "mode"}),
    "hauberk_stage_duration_seconds": ("histogram", {"stage"}),
    "hauberk_rejected_inputs": ("counter", {"reason"}),
    "hauberk_strip_entropy_bits": ("histogram", set()),
    "hauberk_strip_overlays": ("histogram", set()),
    "hauberk_purification_distance": ("histogram", set()),
    "hauberk_predicted_class": ("counter", {"label"}),
    "hauberk_batch_size": ("histogram", set()),
    "hauberk_queue_depth": ("gauge", set()),
    "hauberk_requests_in_flight": ("gauge", set()),
    "hauberk_stage_failures": ("counter", {"stage"}),
    "hauberk_remote_calls": ("counter", {"outcome"}),
    "hauberk_remote_call_duration_seconds": ("histogram", set()),
    "hauberk_remote_retries": ("counter", set()),
    "hauberk_remote_circuit_open": ("gauge", set()),
    "hauberk_audit_lines": ("counter", set()),
    "hauberk_audit_lines_lost": ("counter", {"reason"}),
    "hauberk_start_time_seconds": ("gauge", set()),
    "hauberk_build_info": ("gauge", {"version", "model", "model_version"}),
}

Sample = tuple[str, tuple[tuple[str, str], ...]]


def metrics(labels: tuple[str, ...] = ("ant", "bee", "cat")) -> Metrics:
    made = Metrics(CollectorRegistry(), labels=labels, build=("1.0", "insects", "0123456789ab"))
    made.show_routes(["/predict", "/livez"])
    made.show_detectors([("strip", "enforce")])
    return made


def samples(made: Metrics) -> dict[Sample, float]:
    families = text_string_to_metric_families(made.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(made: Metrics, name: str, **labels: str) -> float:
    return samples(made)[name, tuple(sorted(labels.items()))]


def test_the_names_types_and_labels_are_those_of_the_contract() -> None:
    made = metrics()
    made.began()
    made.ended("/predict", 200, 0.01)
    found = {}
    for family in text_string_to_metric_families(made.exposition().decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name] = (family.type, labels)
    assert found == CONTRACT


def test_codes_that_alerts_look_at_are_shown_at_zero_before_they_first_happen() -> None:
    made = metrics()
    made.show_codes(["/predict"])
    assert [value(made, "hauberk_requests_total", route="/predict", code=code) for code in ("200", "500", "503", "504")] == [
        0
    ] * 4
    made.began()
    made.ended("/predict", 500, 0.01)
    assert value(made, "hauberk_requests_total", route="/predict", code="500") == 1


def test_a_request_is_counted_by_route_and_code_and_timed() -> None:
    made = metrics()
    made.began()
    assert value(made, "hauberk_requests_in_flight") == 1
    made.ended("/predict", 200, 0.02)
    assert value(made, "hauberk_requests_in_flight") == 0
    assert value(made, "hauberk_requests_total", route="/predict", code="200") == 1
    assert value(made, "hauberk_request_duration_seconds_sum", route="/predict") == pytest.approx(0.02)


def test_a_path_that_does_not_exist_makes_no_series_of_its_own() -> None:
    made = metrics()
    for i in range(300):
        made.began()
        made.ended(f"/{i}", 404, 0.001)
    assert value(made, "hauberk_requests_total", route="other", code="404") == 300
    assert not any("/7" in label for _, labels in samples(made) for _, label in labels)


def test_a_wave_moves_outcomes_classes_stages_distance_and_what_the_detector_saw(waves: object) -> None:
    made = metrics()
    pictures = np.stack([np.full((2, 3, 1), mean, np.float32) for mean in (0.1, 0.5, 0.95)])
    for _, decisions in waves(pictures):  # type: ignore[operator]
        made.decided(decisions)
    assert value(made, "hauberk_predictions_total", outcome="answered") == 2
    assert value(made, "hauberk_predictions_total", outcome="abstained") == 1
    assert value(made, "hauberk_abstentions_total", defence="strip", mode="enforce") == 1
    assert [value(made, "hauberk_predicted_class_total", label=label) for label in ("ant", "bee", "cat")] == [1, 1, 0]
    assert value(made, "hauberk_stage_duration_seconds_sum", stage="predict") == pytest.approx(0.002)
    assert value(made, "hauberk_purification_distance_count") == 3
    assert value(made, "hauberk_strip_overlays_sum") == 24
    assert value(made, "hauberk_strip_entropy_bits_sum") == pytest.approx(1.5)


def test_a_batch_moves_its_size_the_queue_and_the_time_in_it() -> None:
    made = metrics()
    made.watch(lambda: 7)
    made.batch(5, [0.1, 0.3])
    assert value(made, "hauberk_batch_size_sum") == 5
    assert value(made, "hauberk_queue_depth") == 7
    assert value(made, "hauberk_stage_duration_seconds_sum", stage="queue") == pytest.approx(0.4)


def test_failures_are_counted_by_stage() -> None:
    made = metrics()
    made.failed(StageFailure("purify"))
    made.failed(StageFailure("a stage nobody knows"))
    made.failed(ValueError())
    assert value(made, "hauberk_stage_failures_total", stage="purify") == 1
    assert value(made, "hauberk_stage_failures_total", stage="other") == 2


def test_rejected_inputs_are_counted_by_the_codes_of_their_problems() -> None:
    made = metrics()
    for problem in every_problem():
        made.rejected(problem.code)
    reasons = {dict(labels)["reason"] for name, labels in samples(made) if name == "hauberk_rejected_inputs_total"}
    assert {"malformed_json", "wrong_shape", "out_of_range", "body_too_large", "unsupported_media_type"} <= reasons
    assert {"unsupported_transfer_coding", "unsupported_version", "slow_head"} <= reasons
    assert not {"not_found", "queue_full", "internal_error"} & reasons


def test_classes_beyond_the_hundredth_are_counted_together(waves: object) -> None:
    made = metrics(tuple(f"class {i}" for i in range(250)))
    waves.classes = 250  # type: ignore[attr-defined]
    for _, decisions in waves(np.stack([np.full((2, 3, 1), mean, np.float32) for mean in (0.1, 0.5, 0.7)])):  # type: ignore[operator]
        made.decided(decisions)
    shown = {dict(labels)["label"] for name, labels in samples(made) if name == "hauberk_predicted_class_total"}
    assert len(shown) == 101
    assert value(made, "hauberk_predicted_class_total", label="other") == 2


def test_a_single_process_shows_its_memory_too() -> None:
    made = Metrics(new_registry(), labels=("a", "b"), build=("1", "m", "v"))
    assert value(made, "process_resident_memory_bytes") > 1e6


TWO_PROCESSES = """
import os, sys
from pathlib import Path
from service.observing import metrics_directory
metrics_directory.choose(alone=sys.argv[1] == "1")
from service.observing.metrics import Metrics, new_registry
made = Metrics(new_registry(), labels=("a", "b"), build=("1", "m", "v"))
made.show_routes(["/predict"])
child = os.fork()
if child:
    os.waitpid(child, 0)
made.began()
made.ended("/predict", 200, 0.5)
if not child:
    os._exit(0)
for file in Path(os.environ.get("EMPTIED", "/nonexistent")).glob("*"):
    file.unlink()
text = made.exposition().decode()
print(next(line for line in text.splitlines() if line.startswith("hauberk_requests_total")))
print("hauberk_build_info" in text)
"""


@pytest.mark.parametrize(("workers", "counted"), [(1, "1.0"), (2, "2.0")])
def test_metrics_survive_another_server_with_the_same_bentoml_home(tmp_path: Path, workers: int, counted: str) -> None:
    """BentoML empties its metrics directory whenever a server starts."""
    shared = tmp_path / "prometheus_multiproc_dir"
    shared.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared), "EMPTIED": str(shared)}
    command = [sys.executable, "-c", TWO_PROCESSES, str(workers)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split("\n")[:2] == [f'hauberk_requests_total{{code="200",route="/predict"}} {counted}', "True"]
