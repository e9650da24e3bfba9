"""The wheel, built from these sources and installed into a fresh environment: every command works there to its last page.

The environment holds nothing but the wheel. A .pth file lets it see the third-party packages of the environment that the tests run in;
Python does not process the .pth files it finds there, so that the finder of an editable install of this project stays out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.harness.readiness import answers_200, free_port, wait_until
from models.datasets import MNIST, load_dataset
from models.version import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "defences", "evaluation", "hauberk", "lab", "models", "service")
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "__pycache__", "docs", "tests")
# Seconds; the kernels are compiled when a command first runs them, half a minute on an idle machine.
READY_S, COMMAND_S = 600.0, 600.0
FINDING = 3


@dataclass(frozen=True)
class Installed:
    """The environment that the wheel is in, and a directory far from the sources."""

    environment: Path
    elsewhere: Path

    @property
    def packages(self) -> Path:
        """Where the wheel's modules are."""
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.environment), "platbase": str(self.environment)}))

    @property
    def bundle(self) -> Path:
        return self.packages / "models" / "bundles" / "mnist-standard"

    @property
    def variables(self) -> dict[str, str]:
        """No setting, no path to modules, and a BENTOML_HOME of its own."""
        left_out = ("HAUBERK_", "BENTOML_", "PYTHON", "VIRTUAL_ENV")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        return inherited | {"BENTOML_HOME": str(self.elsewhere / "bentoml")}

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        command = [str(self.environment / "bin" / program), *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.elsewhere, env=self.variables, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )

    def hauberk(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return self.run("hauberk", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, with what is installed, from no index."""
    sources, built = tmp_path_factory.mktemp("sources") / "hauberk", tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, sources, ignore=NOT_COPIED)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    ran = subprocess.run([*command, "--wheel-dir", str(built), str(sources)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    [file] = built.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install --no-deps` of the wheel into an environment of its own."""
    here = Installed(tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(here.environment)], check=True)
    python = str(here.environment / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True, capture_output=True)
    third_party = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (here.packages / "third_party.pth").write_text("\n".join(sorted(third_party)) + "\n")
    return here


@pytest.fixture(scope="module")
def data(installed: Installed) -> Path:
    """Two hundred test digits."""
    digits = load_dataset(MNIST, split="test").take(slice(0, 200))
    path = installed.elsewhere / "digits.npz"
    np.savez(path, images=np.rint(digits.images * 255).astype(np.uint8), labels=digits.labels)
    return path


@dataclass(frozen=True)
class Server:
    """`hauberk serve` of the environment."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path


@pytest.fixture(scope="module")
def server(installed: Installed) -> Iterator[Server]:
    """Serves the bundle that the wheel brings and that is the default; what it wrote is in `output`."""
    port, output = free_port(), installed.elsewhere / "output"
    command = [str(installed.environment / "bin" / "hauberk"), "serve", "--port", str(port)]
    variables = installed.variables | {"HAUBERK_DRAIN_S": "0"}
    with output.open("wb") as written:
        process = subprocess.Popen(command, cwd=installed.elsewhere, env=variables, stdout=written, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers_200(port), process, output, within_s=READY_S)
        yield Server(process, f"http://127.0.0.1:{port}", output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def test_the_lab_s_pages_and_its_example_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "lab/pages/base.html",
        "lab/pages/lab.css",
        "lab/example/read/result.json",
        "lab/example/evaluate/result.json",
        "service/routes/console_page/theme.css",
    } <= names


def test_it_holds_every_module_every_file_they_read_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == modules
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    for directory in ("evaluation/reporting/report_page", "service/routes/console_page", "lab/pages", "models/data"):
        assert {f"{directory}/{path.name}" for path in (ROOT / directory).iterdir() if path.is_file()} <= held
    for bundle in (ROOT / "models" / "bundles").iterdir():
        assert {f"models/bundles/{bundle.name}/{path.name}" for path in bundle.iterdir()} <= held


def test_it_brings_no_module_of_the_tests_the_benchmarks_or_the_deployment(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} - {f"hauberk-{__version__}.dist-info"} == set(PACKAGES)


def test_its_metadata_name_the_version_the_command_and_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"hauberk-{__version__}.dist-info/METADATA").decode())
        scripts = archive.read(f"hauberk-{__version__}.dist-info/entry_points.txt").decode()
    assert metadata["Version"] == __version__
    assert set(metadata.get_all("Provides-Extra") or ()) == {
        *("report", "lab", "cluster", "ray", "tracing", "dev"),
        *("tensorflow", "onnx", "torch", "sklearn-models"),
    }
    assert "hauberk = hauberk.main:main" in scripts
    for requirement in metadata.get_all("Requires-Dist") or ():
        name, wanted = re.match(r"([\w.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        lowest = re.search(r">=([\d.]+)", wanted)
        if "extra" not in wanted and lowest:
            assert _numbers(version(name)) >= _numbers(lowest[1]), requirement


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]


def test_its_modules_are_those_in_the_new_environment(installed: Installed) -> None:
    code = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    ran = installed.run("python", "-c", code, *PACKAGES)
    assert ran.returncode == 0, ran.stderr
    assert [Path(line) for line in ran.stdout.split()] == [installed.packages / name / "__init__.py" for name in PACKAGES]


def test_the_command_knows_its_version(installed: Installed) -> None:
    assert installed.hauberk("--version").stdout.strip() == __version__


def test_it_serves_a_prediction_and_the_console_with_all_its_files(installed: Installed, server: Server) -> None:
    example = (installed.packages / "models" / "bundles" / "mnist" / "example.json").read_bytes()
    answer = httpx.post(f"{server.url}/predict", content=example, headers={"content-type": "application/json"}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"] == "7"
    page = httpx.get(server.url, headers={"accept": "text/html"})
    assert "</html>" in page.text
    parts = {path.name for path in (installed.packages / "service" / "routes" / "console_page").iterdir()} - {"page.html"}
    assert set(re.findall(r'(?:src|href)="console/([^"]+)"', page.text)) <= parts
    for part in parts:
        assert httpx.get(f"{server.url}/console/{part}").status_code == 200, part


def test_attack_ends_with_its_report(installed: Installed, server: Server, data: Path) -> None:
    options = ["--images", 5, "--attack", "clean,square", "--max-queries", 300]
    ran = installed.hauberk("attack", server.url, "--data", data, "--out", "attacked", *options)
    assert ran.returncode == 0, ran.stderr
    report = json.loads((installed.elsewhere / "attacked" / "report.json").read_text())
    assert (report["status"], [row["attack"] for row in report["evasions"]]) == ("finished", ["clean", "square"])


def test_scan_ends_with_its_page(installed: Installed, data: Path) -> None:
    options = ["--methods", "activation_clustering", "--out", "scanned"]
    ran = installed.hauberk("scan", "--classifier", installed.bundle / "model.keras", "--data", data, *options)
    assert ran.returncode in (0, FINDING), ran.stderr
    assert "</html>" in (installed.elsewhere / "scanned" / "report.html").read_text(encoding="utf-8")


def test_evaluate_ends_with_its_page(installed: Installed, data: Path) -> None:
    options = ["--budget", "quick", "--rows", "0:20", "--eps", "0.1", "--out", "evaluated"]
    ran = installed.hauberk("evaluate", "--bundle", installed.bundle, "--data", data, *options)
    assert ran.returncode == 0, ran.stderr
    assert "</html>" in (installed.elsewhere / "evaluated" / "report.html").read_text(encoding="utf-8")


def test_sigterm_ends_the_server_with_0(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(60) == 0, server.output.read_text()[-2000:]
