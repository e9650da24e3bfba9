"""Prometheus' configuration, rules and alerts: by promtool, and by a real Prometheus that watches a real gateway."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.harness import prometheus
from benchmarks.harness.prometheus import Prometheus
from tests.service.conftest import ROOT, Server

DEPLOY = ROOT / "deploy" / "prometheus"
UNIT_TESTS = sorted(DEPLOY.glob("tests/*.yml"))
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "rules" / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
HASTE = 15.0  # half an hour is two minutes
REQUEST = 'hauberk_request_duration_seconds_bucket{route="/predict/npy"}'


@pytest.fixture(scope="module")
def promtool(tool: Callable[[str, str], str]) -> Callable[..., str]:
    """Runs promtool, which must be content, and returns what it said."""
    program = tool("promtool", "prometheus")

    def run(*arguments: object) -> str:
        ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


def test_the_configuration_is_one_that_prometheus_takes(promtool: Callable[..., str]) -> None:
    assert "2 rule files found" in promtool("check", "config", DEPLOY / "prometheus.yml")


@pytest.mark.parametrize("tests", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should_and_are_silent_otherwise(promtool: Callable[..., str], tests: Path) -> None:
    promtool("test", "rules", tests)


def test_every_alert_is_tested_both_ways() -> None:
    tested: dict[str, set[bool]] = {alert["alert"]: set() for alert in ALERTS}
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test.get("alert_rule_test", ()):
                tested[check["alertname"]].add(bool(check["exp_alerts"]))
    assert tested == {name: {True, False} for name in tested}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_leads_to_its_section_of_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
    section = RUNBOOK.split(f"\n## {alert['alert']}\n")[1].split("\n## ")[0]
    for heading in ("**What it means.**", "**How to look.**", "**What to do.**"):
        assert heading in section
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_has_no_section_for_an_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"^## (Hauberk\w+)$", RUNBOOK, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


@dataclass
class Traffic:
    """What a client sent to a gateway, and what it saw come back."""

    server: Server
    answered: int = 0
    abstained: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def send(self, images: np.ndarray[Any, Any]) -> None:
        """Images in requests of four."""
        for first in range(0, len(images), 4):
            predictions = self._post(npy_of(images[first : first + 4])).json()["predictions"]
            refused = sum(prediction["abstained"] for prediction in predictions)
            self.abstained += refused
            self.answered += len(predictions) - refused

    def send_wrong(self, count: int) -> None:
        """Images of another shape."""
        for _ in range(count):
            self._post(npy_of(np.zeros((1, 5, 5), np.float32)))

    def _post(self, body: bytes) -> Any:
        answer = self.server.send_to("/predict/npy", body, content_type="application/x-npy")
        code = str(answer.status_code)
        self.codes[code] = self.codes.get(code, 0) + 1
        return answer

    @property
    def images(self) -> int:
        return self.answered + self.abstained


def npy_of(images: np.ndarray[Any, Any]) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, images.astype(np.float32))
    return file.getvalue()


def adversarial(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], eps: float) -> np.ndarray[Any, Any]:
    """The fast gradient method's closed form: the classifier goes by the nearest class mean, each is led to the next one."""
    means = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    return np.asarray(np.clip(images + eps * np.sign(means[(labels + 1) % 10] - means[labels]), 0, 1))


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait for something a later scrape or evaluation brings."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.2)


@dataclass(frozen=True)
class Watched:
    """A gateway with what was sent to it, and the Prometheus that watched."""

    server: Server
    sent: Traffic
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(
    tool: Callable[[str, str], str],
    launch: Any,
    tmp_path_factory: pytest.TempPathFactory,
    backdoored: Any,
    digits: Any,
    triggered: Any,
) -> Iterator[Watched]:
    """Clean, adversarial and triggered images and some that are none, sent while Prometheus looks once a second."""
    tool("prometheus", "prometheus")
    directory = tmp_path_factory.mktemp("watched")
    images, labels = digits[0][:600], digits[1][:600]
    with launch(directory / "gateway", HAUBERK_BUNDLE=str(backdoored.directory)) as server:
        configured = prometheus.configuration([f"127.0.0.1:{server.port}"], prometheus.hastened_rules(directory, factor=HASTE))
        with prometheus.running(directory / "prometheus", configured) as watching:
            until(lambda: watching.value("sum(hauberk_predictions_total)") == 0)
            sent = Traffic(server)
            sent.send(images[:400])
            sent.send(adversarial(images, labels, 0.2)[400:])
            sent.send(triggered[:120])
            sent.send_wrong(9)
            # The counters of requests are written last.
            until(lambda: watching.value('sum(hauberk_requests_total{route="/predict/npy"})') == sum(sent.codes.values()))
            yield Watched(server, sent, watching)


def test_prometheus_counts_what_the_client_saw(watched: Watched) -> None:
    asked, sent = watched.prometheus, watched.sent
    assert sent.abstained >= 120
    assert asked.value('hauberk_predictions_total{outcome="answered"}') == sent.answered
    assert asked.value('hauberk_predictions_total{outcome="abstained"}') == sent.abstained
    assert asked.value('hauberk_abstentions_total{defence="strip",mode="enforce"}') == sent.abstained
    assert asked.value('hauberk_rejected_inputs_total{reason="wrong_shape"}') == sent.codes["422"] == 9
    assert asked.value('hauberk_requests_total{route="/predict/npy",code="200"}') == sent.codes["200"]
    assert asked.value("sum(hauberk_strip_overlays_count)") == sent.images


def test_a_rate_is_the_rise_over_the_time_it_took(watched: Watched) -> None:
    selector = 'hauberk_requests_total{route="/predict/npy",code="200"}'
    (samples,) = watched.prometheus.samples(f"{selector}[5m]")
    (began, first), (ended, last) = samples[0], samples[-1]
    assert (first, last) == (0, watched.sent.codes["200"])
    seconds = int(ended - began)
    rate = watched.prometheus.value(f"rate({selector}[{seconds}s])", time=ended)
    inside = [(at, value) for at, value in samples if at > ended - seconds]
    assert rate == pytest.approx((last - inside[0][1]) / (ended - inside[0][0]), rel=0.1)


def test_quantiles_agree_with_the_durations_in_the_log(watched: Watched) -> None:
    lines = (json.loads(line) for line in watched.server.log.read_text().splitlines() if line.startswith('{"time'))
    durations = sorted(line["duration_s"] for line in lines if line.get("route") == "/predict/npy")
    assert len(durations) == sum(watched.sent.codes.values())
    counts = np.searchsorted(durations, BUCKETS_S, side="right")
    for q in (0.5, 0.9, 0.99):
        # Prometheus interpolates within the bucket that the rank falls into.
        rank = q * len(durations)
        at = int(np.searchsorted(counts, rank))
        below, low = (counts[at - 1], BUCKETS_S[at - 1]) if at else (0, 0.0)
        expected = low + (BUCKETS_S[at] - low) * (rank - below) / (counts[at] - below)
        assert watched.prometheus.value(f"histogram_quantile({q}, {REQUEST})") == pytest.approx(expected, rel=0.02)


def test_the_alert_for_many_refusals_fires_with_the_right_ratio(watched: Watched) -> None:
    ratio = watched.sent.abstained / watched.sent.images
    # It first fires while the triggered images still come in; its value follows at a later evaluation.
    until(lambda: abs(watched.prometheus.firing().get("HauberkAbstentionsHigh", 0) - ratio) < 0.01)
    assert watched.prometheus.value("job:hauberk_predictions:abstained_ratio_rate30m") == pytest.approx(ratio, abs=0.02)
    assert not {"HauberkDown", "HauberkAbsent", "HauberkStageFailing"} & set(watched.prometheus.firing())


def test_a_gateway_that_ends_is_down(watched: Watched) -> None:
    assert watched.server.stop() == 0
    until(lambda: "HauberkDown" in watched.prometheus.firing())
