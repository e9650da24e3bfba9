"""deploy/compose.yaml: what it mounts is there, what it runs is pinned and confined, and nothing secret is inside."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.version import __version__
from service.settings import read_settings
from tests.service.conftest import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def mounts(name: str) -> list[tuple[str, str, str]]:
    """Source, target and mode of a service's volumes."""
    return [(*volume.split(":"), "rw")[:3] for volume in SERVICES[name].get("volumes", ())]


def test_it_runs_a_gateway_a_prometheus_and_a_grafana() -> None:
    assert set(SERVICES) == {"gateway", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_gateway_is_the_version_of_this_tree() -> None:
    assert SERVICES["gateway"]["image"] == f"hauberk:{__version__}"
    assert f"hauberk:{__version__}" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_everything_mounted_from_the_repository_exists_and_is_read_only(name: str) -> None:
    for source, _, mode in mounts(name):
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert mode == "ro"
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_reached_from_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(line.startswith("/tmp:size=") for line in service["tmpfs"])  # noqa: S108  # the container's own
    assert "mem_limit" in service
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_files_that_git_ignores(name: str) -> None:
    for secret in SERVICES[name].get("secrets", ()):
        file = DEPLOY / COMPOSE["secrets"][secret]["file"]
        assert file.parent == DEPLOY / "secrets"
        assert f"/run/secrets/{secret}" in SERVICES[name]["environment"].values()
    for variable, value in SERVICES[name].get("environment", {}).items():
        secret = re.search("SECRET|PASSWORD|TOKEN|KEY", variable)
        assert not secret or variable.endswith("FILE") or not value, f"{variable} has its value inside"
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_gateway_takes_its_settings(tmp_path: Path) -> None:
    environment = dict(SERVICES["gateway"]["environment"])
    secret = tmp_path / "secret"
    secret.write_text("0" * 48)
    settings = read_settings(environment | {"HAUBERK_SECRET_FILE": str(secret)})
    assert settings.secret == b"0" * 48
    grace_s = float(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert settings.drain_s + settings.deadline_s < 30 < grace_s


def test_prometheus_takes_the_configuration_as_it_is_mounted(tool: Callable[[str, str], str], tmp_path: Path) -> None:
    for source, target, _ in mounts("prometheus"):
        if source.startswith("."):
            copy = shutil.copytree if (DEPLOY / source).is_dir() else shutil.copy
            to = tmp_path / Path(target).relative_to("/etc/prometheus")
            copy(DEPLOY / source, to)
    command = [tool("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yml")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 rule files found" in ran.stdout


def test_prometheus_scrapes_the_gateway_by_its_name_here() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets: dict[str, Any] = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert targets["hauberk"] == ["gateway:9464"]


def test_grafana_asks_the_prometheus_of_the_same_file() -> None:
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
