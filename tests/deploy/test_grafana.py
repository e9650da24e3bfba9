"""The dashboards: the committed JSON is what the code makes, its queries are PromQL, and its metrics exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana.dashboards import OUT, written
from deploy.grafana.panels import BOARDS, Board
from service.errors import every_problem
from service.observing.metrics import Metrics, new_registry
from tests.service.conftest import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
# What Grafana puts in before it asks.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}
# What Prometheus itself makes.
PROMETHEUS = {"up", "ALERTS"}


def targets(document: Any) -> Iterator[tuple[str, str]]:
    """Title and query of every target of every panel."""
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
        if panel["type"] == "row":
            yield from targets(panel)


@pytest.fixture(params=BOARDS, ids=lambda board: board.uid)
def board(request: pytest.FixtureRequest) -> Board:
    found: Board = request.param
    return found


@pytest.fixture
def document(board: Board) -> Any:
    return json.loads((OUT / f"{board.uid}.json").read_text())


@pytest.fixture(scope="module")
def recorded() -> set[str]:
    """The names of recording rules."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "recording.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all samples a gateway exports, its process's included."""
    registry: CollectorRegistry = new_registry()
    made = Metrics(registry, labels=("a", "b"), build=("0", "m", "v"))
    made.show_codes(["/predict"])
    made.show_detectors([("strip", "enforce")])
    names = {line.partition(" ")[0].partition("{")[0] for line in made.exposition().decode().splitlines() if line[:1] != "#"}
    return names | {f"{family.name}_total" for family in registry.collect() if family.type == "counter"}


def test_the_committed_json_is_what_the_code_makes(board: Board) -> None:
    again = "python -m deploy.grafana.dashboards writes it again"
    assert (OUT / f"{board.uid}.json").read_text() == written(board), again


def test_no_dashboard_is_left_over() -> None:
    assert {path.stem for path in OUT.iterdir()} == {board.uid for board in BOARDS}


def test_the_panel_of_bad_connections_names_every_refusal_that_is_about_how_a_request_was_sent() -> None:
    panels = [panel for board in BOARDS for _, row in board.rows for panel in row]
    [(_, query)] = next(panel.queries for panel in panels if panel.title == "Bad connections")
    named = set(re.findall(r'reason=~"([a-z_|]+)"', query)[0].split("|"))
    assert named == {problem.code for problem in every_problem() if problem.about_transport}
    assert {"unsupported_transfer_coding", "unsupported_version", "malformed_http", "slow_body"} <= named


def test_every_panel_says_what_it_shows(board: Board) -> None:
    panels = [panel for _, row in board.rows for panel in row]
    assert all(panel.description and panel.queries for panel in panels)
    assert len({panel.title for panel in panels}) == len(panels)


def test_every_axis_says_its_unit(board: Board, document: Any) -> None:
    assert all(panel.axis for _, row in board.rows for panel in row)
    drawn = [panel for panel in document["panels"] if panel["type"] in ("timeseries", "heatmap")]
    labels = [
        panel["options"]["yAxis"]["axisLabel"]
        if panel["type"] == "heatmap"
        else panel["fieldConfig"]["defaults"]["custom"]["axisLabel"]
        for panel in drawn
    ]
    assert len(labels) >= 6
    assert all(labels)


def test_no_panel_takes_a_quantile_of_counts_of_whole_things() -> None:
    """Interpolated within a bucket it would be half an image: of (0, 1] the median is 0.5."""
    queries = [query for board in BOARDS for _, row in board.rows for panel in row for _, query in panel.queries]
    taken = [query for query in queries if "histogram_quantile" in query]
    assert taken
    assert all("_seconds_bucket" in query for query in taken)


def test_every_query_is_one_prometheus_understands(
    document: Any, tool: Callable[[str, str], str], tmp_path: Path, recorded: set[str]
) -> None:
    rules = []
    for number, (_, query) in enumerate(targets(document)):
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        assert "$" not in query
        rules.append({"record": f"query:{number}", "expr": query})
    assert len(rules) >= 10
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    ran = subprocess.run([tool("promtool", "prometheus"), "check", "rules", str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_metric_it_asks_for_is_exported_or_recorded(document: Any, exported: set[str], recorded: set[str]) -> None:
    for title, query in targets(document):
        bare = re.sub(r'"[^"]*"', '""', query)
        names = set(re.findall(r"\b(?:job\w*:[\w:]+|hauberk_\w+|process_\w+|up|ALERTS)\b(?=[{\[ ]|$|\))", bare))
        assert names, title
        assert names <= exported | recorded | PROMETHEUS, title


def test_recording_rules_and_alerts_ask_for_what_is_exported_too(exported: set[str], recorded: set[str]) -> None:
    for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                names = set(re.findall(r"\b(?:job\w*:[\w:]+|hauberk_\w+|up)\b", re.sub(r'"[^"]*"', '""', rule["expr"])))
                assert names
                assert names <= exported | recorded | PROMETHEUS, rule


def test_every_metric_of_the_contract_is_on_a_dashboard() -> None:
    documented = re.findall(r"^\| `(hauberk_\w+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    asked = " ".join(query for board in BOARDS for _, row in board.rows for panel in row for _, query in panel.queries)
    missing = {name for name in documented if name not in asked}
    assert missing <= {"hauberk_start_time_seconds"}  # an alert's


def test_grafana_is_provisioned_with_the_source_and_the_folder_that_compose_mounts() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "hauberk.yaml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"] if volume.startswith("./"))
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
