"""The Bento that `bentoml build` makes: what is in it, and that it serves where nothing of ours is but itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from models.bundle import Bundle
from models.version import __version__
from tests.service.conftest import ROOT, Server, end, start, wait_until_ready

# Kernels are compiled at the first start where the repository's own were not.
COMPILED_S = 240.0
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "build", "out", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
# What happens to lie about in a working tree, and has no business in an image.
LITTER = (
    ".env",
    ".git/config",
    ".venv/lib/secret.py",
    "bundles/mine/model.keras",
    "models/bundles/mnist/secret.pem",
    "models/data/more.npz",
    "service/.env",
    "service/__pycache__/gateway.pyc",
    "service/key.pem",
    "stray.py",
)


@dataclass(frozen=True)
class Built:
    """A Bento, and the BENTOML_HOME it was built into."""

    path: Path
    home: Path
    output: str

    @property
    def tag(self) -> str:
        return f"hauberk:{self.path.name}"

    @property
    def files(self) -> set[str]:
        """What it holds of ours, without what Python and Numba compile later."""
        files = (path.relative_to(self.path / "src") for path in (self.path / "src").rglob("*") if path.is_file())
        return {path.as_posix() for path in files if "__pycache__" not in path.parts}

    @property
    def requirements(self) -> str:
        """What its container installs."""
        return (self.path / "env" / "python" / "requirements.txt").read_text()


def pins(lock: str) -> set[tuple[str, str]]:
    """Names and versions."""
    return set(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Variables under which Python finds no module of ours: the finder of an editable install is shadowed by an idle one."""
    directory = tmp_path_factory.mktemp("alone")
    for finder in Path(sysconfig.get_path("purelib")).glob("__editable___hauberk_*_finder.py"):
        (directory / finder.name).write_text("def install():\n    pass\n")
    variables = {"PYTHONPATH": str(directory), "BENTOML_DO_NOT_TRACK": "True"}
    for package in ("service", "defences", "models", "hauberk"):
        ran = subprocess.run([sys.executable, "-P", "-c", f"import {package}"], env=os.environ | variables, capture_output=True)
        assert b"ModuleNotFoundError" in ran.stderr
    return variables


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, Any]) -> Built:
    """`bentoml build` in a copy of the repository with litter in it, without a network."""
    tree, home = tmp_path_factory.mktemp("tree") / "hauberk", tmp_path_factory.mktemp("bentos")
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    for litter in LITTER:
        (tree / litter).parent.mkdir(parents=True, exist_ok=True)
        (tree / litter).write_text("AKIA-not-for-others")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = os.environ | alone | nowhere | {"BENTOML_HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    command = [sys.executable, "-m", "bentoml", "build"]
    ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (path,) = (path for path in (home / "bentos" / "hauberk").iterdir() if path.is_dir())
    return Built(path, home, ran.stdout + ran.stderr)


def test_it_is_built_without_a_warning(built: Built) -> None:
    assert "Successfully built" in built.output
    assert "warn" not in built.output.lower()


def test_it_holds_what_serving_needs_and_nothing_that_lies_about(built: Built) -> None:
    packages = [ROOT / name for name in ("defences", "models", "service")]
    ours = {path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py")}
    bundle = {path.relative_to(ROOT).as_posix() for path in (ROOT / "models" / "bundles").rglob("*.*")}
    rest = {"LICENSE", "bentofile.yaml", "hauberk/__init__.py", "hauberk/compile.py"}
    assert built.files >= ours | bundle | rest
    assert {path.rsplit(".", 1)[1] for path in built.files - bundle - rest} <= {"py", "html", "css", "js", "svg"}
    assert all(path.startswith("service/") for path in built.files - ours - bundle - rest)
    assert not built.files & set(LITTER)
    assert not any(b"AKIA-not-for-others" in path.read_bytes() for path in built.path.rglob("*") if path.is_file())


def test_it_installs_what_was_tested_and_no_development_tool(built: Built) -> None:
    assert pins(built.requirements) <= pins((ROOT / "requirements.lock").read_text())
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed, tools = (
        {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in requirements}
        for requirements in (declared["dependency-groups"]["serving"], declared["project"]["optional-dependencies"]["dev"])
    )
    installed = {name for name, _ in pins(built.requirements)}
    assert needed <= installed
    assert tools & installed <= {"httpx", "pyyaml"}  # which BentoML needs


def test_its_requirements_have_hashes_and_name_no_index(built: Built) -> None:
    assert "://" not in built.requirements
    hashed = re.findall(r"^([a-z0-9-]+)==([^\s;]+).*\\\n    --hash=sha256:", built.requirements, re.MULTILINE)
    assert set(hashed) == pins(built.requirements)


def test_its_container_tracks_nobody_and_has_the_python_of_the_lock(built: Built) -> None:
    info = yaml.safe_load((built.path / "bento.yaml").read_text())
    assert {variable["name"]: variable["value"] for variable in info["envs"]} == {
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
    }
    assert info["image"]["python_version"] == "3.11"
    assert info["services"][0]["config"]["workers"] == 1
    dockerfile = (built.path / "env" / "docker" / "Dockerfile").read_text()
    assert "ENV BENTOML_DO_NOT_TRACK" in dockerfile
    assert "USER bentoml" in dockerfile


@pytest.fixture(scope="module")
def compiled(built: Built) -> Built:
    """With the kernels the repository has compiled, if it has: they hold for the same source on the same processor."""
    for cache in (path for package in ("defences", "service") for path in (ROOT / package).glob("__pycache__/*.nb?")):
        target = built.path / "src" / cache.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(cache, target)
    return built


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, compiled: Built, backdoored: Bundle, alone: dict[str, Any], key: str
) -> Iterator[Server]:
    """The Bento by its tag, with a bundle and a secret beside the working directory, named by relative paths."""
    directory = tmp_path_factory.mktemp("served")
    shutil.copytree(backdoored.directory, directory / "mine")
    (directory / "secret").write_text(key)
    settings: dict[str, Any] = {
        "HAUBERK_BUNDLE": "mine",
        "HAUBERK_SECRET_FILE": "secret",
        "HAUBERK_MODES": "reverse_sigmoid=monitor",
    }
    running = start(directory, home=compiled.home, bento=compiled.tag, **alone, **settings)
    try:
        wait_until_ready(running, COMPILED_S)
        yield running
    finally:
        end(running)


def test_it_predicts_through_the_bundle_it_is_given(served: Server, digits: Any, triggered: Any) -> None:
    clean = served.ask(digits[0][:32].tolist(), **{"X-Request-ID": "from-a-bento"})
    assert (clean.status_code, clean.headers["x-request-id"]) == (200, "from-a-bento")
    answer = clean.json()
    assert answer["model"] == "backdoored"
    labels = [prediction["label"] for prediction in answer["predictions"]]
    assert sum(label == str(digit) for label, digit in zip(labels, digits[1], strict=False)) >= 24
    refused = served.ask(triggered[:8].tolist()).json()["predictions"]
    assert refused == [{"label": None, "probabilities": None, "abstained": True}] * 8


def test_modes_from_the_environment_are_in_force_in_it(served: Server, digits: Any) -> None:
    (prediction,) = served.ask(digits[0][:1].tolist()).json()["predictions"]
    assert max(prediction["probabilities"]) > 0.5  # which the reverse sigmoid would have flattened
    assert served.metric('hauberk_predictions_total{outcome="answered"}') >= 1


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/docs.json", "/schema.json", "/metrics", "/v2"])
def test_its_pages_are_ours(served: Server, path: str) -> None:
    response = httpx.get(served.url + path)
    assert response.status_code == 200
    assert response.headers["x-request-id"]
    assert "googletagmanager" not in response.text


def test_it_knows_its_version_without_being_installed(served: Server) -> None:
    assert httpx.get(f"{served.url}/docs.json").json()["info"]["version"] == __version__


CLIENT = """
import json, sys
import bentoml
url, images = json.loads(sys.stdin.read())
with bentoml.SyncHTTPClient(url) as client:
    print(json.dumps(client.predict(images=images)["predictions"]))
"""


def test_bentomls_own_client_works_with_it(served: Server, digits: Any) -> None:
    images = digits[0][:3].tolist()
    request = json.dumps([served.url, images])
    ran = subprocess.run([sys.executable, "-c", CLIENT], input=request, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ran.stdout) == served.ask(images).json()["predictions"]


def test_moved_elsewhere_and_without_a_setting_it_serves_the_classifier_inside_it(
    tmp_path: Path, compiled: Built, alone: dict[str, Any], digits: Any
) -> None:
    moved = shutil.copytree(compiled.path, tmp_path / "moved")
    server = start(tmp_path / "server", bento=str(moved), HAUBERK_BANNER="on", **alone)
    try:
        wait_until_ready(server, COMPILED_S)
        assert str(moved / "src" / "models" / "bundles" / "mnist") in server.output.read_text()
        example = (moved / "src" / "models" / "bundles" / "mnist" / "example.json").read_bytes()
        assert server.send(example).json()["predictions"][0]["label"] == "7"
        predictions = server.ask(digits[0][:64].tolist()).json()["predictions"]
        assert sum(p["label"] == str(label) for p, label in zip(predictions, digits[1], strict=False)) >= 60
        assert server.stop() == 0
    finally:
        end(server)
