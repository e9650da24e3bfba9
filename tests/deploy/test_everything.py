"""Every file under deploy/ is exercised by a test: here is by which."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from tests.service.conftest import ROOT

# Pattern of files, the module that exercises them, and what it says of them.
EXERCISED = {
    "deploy/__init__.py": ("test_container.py", "from deploy import"),
    "deploy/Dockerfile": ("test_container.py", '"Dockerfile"'),
    "deploy/dockerfile.py": ("test_container.py", "deploy.dockerfile"),
    "deploy/container_check.py": ("test_container.py", "container_check"),
    "deploy/audit.py": ("test_audit.py", "deploy.audit"),
    "deploy/compose.yaml": ("test_compose.py", "compose.yaml"),
    "deploy/compose.remote.yaml": ("test_remote.py", "compose.remote.yaml"),
    "deploy/grafana/*.py": ("test_grafana.py", "deploy.grafana"),
    "deploy/grafana/dashboards/hauberk-*.json": ("test_grafana.py", "OUT"),
    "deploy/grafana/provisioning/dashboards/hauberk.yaml": ("test_grafana.py", '"hauberk.yaml"'),
    "deploy/grafana/provisioning/datasources/prometheus.yaml": ("test_grafana.py", '"prometheus.yaml"'),
    "deploy/kubernetes/base/*.yaml": ("test_kubernetes.py", "OVERLAYS"),
    "deploy/kubernetes/overlays/development/*.yaml": ("test_kubernetes.py", '"development"'),
    "deploy/kubernetes/overlays/production/*.yaml": ("test_kubernetes.py", '"production"'),
    "deploy/kubernetes/overlays/triton/*.yaml": ("test_remote.py", '"triton"'),
    "deploy/kubernetes/rules.py": ("test_kubernetes.py", "rules"),
    "deploy/prometheus/prometheus.yml": ("test_prometheus.py", '"prometheus.yml"'),
    "deploy/prometheus/rules/*.yml": ("test_prometheus.py", '"rules"'),
    "deploy/prometheus/tests/*.yml": ("test_prometheus.py", "tests/*.yml"),
}


def files() -> set[str]:
    """All that git knows under deploy/, less what is for git itself; a checkout without git: all there is."""
    listed = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    there = (path for path in (ROOT / "deploy").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    found = listed or [str(path.relative_to(ROOT)) for path in there]
    return {file for file in found if not file.endswith("/.gitignore")}


def test_every_file_is_exercised_by_a_test() -> None:
    assert {file for file in files() if not any(fnmatch(file, pattern) for pattern in EXERCISED)} == set()


def test_no_line_of_the_table_is_about_a_file_that_is_gone() -> None:
    assert {pattern for pattern in EXERCISED if not any(fnmatch(file, pattern) for file in files())} == set()


def test_every_test_of_the_table_speaks_of_its_files() -> None:
    for module, word in EXERCISED.values():
        assert word in (Path(__file__).with_name(module)).read_text()


def test_every_resource_is_in_a_kustomization() -> None:
    kubernetes = ROOT / "deploy" / "kubernetes"
    for directory in (kubernetes / "base", *(kubernetes / "overlays").glob("*/")):
        named = set(re.findall(r"- (?:path: )?([\w-]+\.yaml)$", (directory / "kustomization.yaml").read_text(), re.MULTILINE))
        assert {path.name for path in directory.glob("*.yaml")} - named == {"kustomization.yaml"}
