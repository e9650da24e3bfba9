"""A real Prometheus on this machine: started on a configuration, asked over its HTTP API, stopped in the end."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.harness.readiness import answers_200, free_port, wait_until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
_READY_S = 60.0
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\[|offset )(\d+)([smhd])")


@dataclass(frozen=True)
class Prometheus:
    """One that runs; `url` is where it is asked."""

    url: str

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of the HTTP API. Raises: ValueError with Prometheus' own words when it refuses the question."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        if answer.status_code != 200:
            raise ValueError(f"{parameters}: {answer.text}")
        return answer.json()["data"]

    def values(self, query: str, **parameters: str | float) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query: values by their labels, without the name."""
        result = self.ask("query", query=query, **parameters)["result"]
        return {_labels(series["metric"]): float(series["value"][1]) for series in result}

    def value(self, query: str, **parameters: str | float) -> float:
        """An instant query of one value; NaN when there is none."""
        found = self.values(query, **parameters)
        if len(found) > 1:
            raise ValueError(f"expected one value of {query}, got {found}")
        return next(iter(found.values()), float("nan"))

    def samples(self, selector: str) -> list[list[tuple[float, float]]]:
        """The raw samples of a range selector: time and value, for each series."""
        result = self.ask("query", query=selector)["result"]
        return [[(float(at), float(value)) for at, value in series["values"]] for series in result]

    def firing(self) -> dict[str, float]:
        """The alerts that fire, with their values."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: float(alert["value"]) for alert in alerts if alert["state"] == "firing"}


def _labels(metric: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in metric.items() if name != "__name__"))


def hastened(rules: str, *, factor: float, at_least_s: int) -> str:
    """Alerting and recording rules with every window divided by a factor, and without waiting: a day in a minute or two.

    Names stay, `...:rate5m` too. No window becomes shorter than `at_least_s`, which has to hold two scrapes.
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = max(at_least_s, round(int(found[2]) * _SECONDS[found[3]] / factor))
        return f"{found[1]}{seconds}s"

    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _DURATION.sub(shorter, rule["expr"])
            if "for" in rule:
                rule["for"] = "0s"
    return str(yaml.safe_dump(document))


def configuration(targets: Sequence[str], rules: Sequence[Path] = (), *, every_s: int = 1) -> str:
    """What `prometheus.yml` in deploy/ says, for targets and rules of one's own and with short intervals."""
    seconds = f"{every_s}s"
    document = {
        "global": {"scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": seconds},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "hauberk", "static_configs": [{"targets": list(targets)}]}],
    }
    return str(yaml.safe_dump(document))


def hastened_rules(directory: Path, *, factor: float = 60.0, at_least_s: int = 5) -> list[Path]:
    """The rules of deploy/ as files in `directory`, hastened."""
    paths = []
    for rules in sorted(RULES.glob("*.yml")):
        path = directory / rules.name
        path.write_text(hastened(rules.read_text(), factor=factor, at_least_s=at_least_s))
        paths.append(path)
    return paths


@contextlib.contextmanager
def running(directory: Path, configured: str) -> Iterator[Prometheus]:
    """Start it with its data in `directory`, wait until it is ready, and stop it in the end."""
    directory.mkdir(parents=True, exist_ok=True)
    file, log, port = directory / "prometheus.yml", directory / "log", free_port()
    file.write_text(configured)
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=1d"]
    with log.open("wb") as written:
        process = subprocess.Popen(command, cwd=directory, stdout=written, stderr=written)
        try:
            wait_until(lambda: answers_200(port, "/-/ready"), process, log, within_s=_READY_S)
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)
