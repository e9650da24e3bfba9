"""The image: what deploy/Dockerfile says, and what its process 1 does before it becomes the server.

The last test carries all of it out but the installation, for which this environment's packages stand; `make container-check` does that
too, in minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import container_check
from deploy.dockerfile import Instruction, read, substituted
from models.version import __version__
from service.lifecycle.container import prepare
from tests.service.conftest import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
STAGES = read(DOCKERFILE)
FINAL = STAGES[-1]
ENVIRONMENT = {name: value for each in FINAL.all("ENV") for name, value in each.pairs.items()}


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_it_builds_in_one_stage_and_serves_from_another_of_the_same_pinned_python() -> None:
    assert len(STAGES) == 2
    (image,) = {stage.image for stage in STAGES}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image)


def test_the_final_stage_installs_and_compiles_nothing() -> None:
    assert not FINAL.all("RUN")
    assert [each.text for each in FINAL.all("COPY")] == ["--from=build /opt/hauberk /opt/hauberk"]
    assert not re.search("apt-get|gcc|build-essential", DOCKERFILE.read_text())


def test_requirements_are_installed_as_locked_and_as_wheels_only() -> None:
    (install,) = [each.text for each in STAGES[0].all("RUN") if " install " in each.text]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install


def test_the_user_is_a_number_and_that_of_kubernetes() -> None:
    assert FINAL.last("USER").text == "10001:10001"
    assert "runAsUser: 10001" in (ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text()


def test_process_one_is_the_server_itself() -> None:
    assert (FINAL.last("ENTRYPOINT").exec_form or [])[1:] == ["-P", "-m", "service.lifecycle.container"]
    assert FINAL.last("STOPSIGNAL").text == "SIGTERM"


def test_its_health_is_asked_on_the_port_for_metrics_in_exec_form() -> None:
    options, _, command = FINAL.last("HEALTHCHECK").text.partition("CMD ")
    words = Instruction("CMD", command).exec_form or []
    assert "--start-period=" in options
    assert "http://127.0.0.1:9464/livez" in words[-1]
    assert FINAL.last("EXPOSE").text.split() == ["3000", "9464"]


def test_it_has_the_labels_of_oci() -> None:
    arguments = {name: value for each in FINAL.all("ARG") for name, value in each.pairs.items()}
    labels = {name: substituted(value, arguments) for name, value in FINAL.last("LABEL").pairs.items()}
    wanted = ("title", "description", "licenses", "version", "revision", "created")
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in wanted}
    assert labels["org.opencontainers.image.version"] == __version__
    assert all(labels.values())


@pytest.mark.parametrize("name", ["HOME", "BENTOML_HOME", "NUMBA_CACHE_DIR"])
def test_all_that_is_written_goes_below_tmp(name: str) -> None:
    assert Path(ENVIRONMENT[name]).parts[:2] == ("/", "tmp")


def test_it_reports_to_nobody() -> None:
    assert ENVIRONMENT["BENTOML_DO_NOT_TRACK"] == "True"


def test_process_one_makes_its_places_and_brings_the_kernels_with_their_times(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    (kernels / "defences").mkdir(parents=True)
    compiled = kernels / "defences" / "kernel.nbi"
    compiled.write_bytes(b"index")
    os.utime(compiled, (1_700_000_000, 1_700_000_000))
    places = {"BENTOML_HOME": str(tmp_path / "bentoml"), "NUMBA_CACHE_DIR": str(tmp_path / "numba"), "KERNELS_DIR": str(kernels)}
    for _ in range(2):  # a container that is restarted finds them there
        prepare(places)
    brought = tmp_path / "numba" / "defences" / "kernel.nbi"
    assert (tmp_path / "bentoml").is_dir()
    assert brought.read_bytes() == b"index"
    assert brought.stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize("kernels", [{}, {"KERNELS_DIR": "/nowhere"}])
def test_an_image_without_kernels_starts_all_the_same(tmp_path: Path, kernels: dict[str, str]) -> None:
    prepare({"BENTOML_HOME": str(tmp_path / "b"), "NUMBA_CACHE_DIR": str(tmp_path / "n")} | kernels)
    assert list((tmp_path / "n").iterdir()) == []


def test_a_dockerfile_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(
        '# comment\nFROM a:1 AS one\nRUN x \\\n# between\n    && y\nFROM b:2\nENV A="1 2" B=3\nENTRYPOINT ["p", "-q"]\n'
    )
    one, two = read(file)
    assert (one.image, one.name, one.last("RUN").text) == ("a:1", "one", "x  && y")
    assert two.last("ENV").pairs == {"A": "1 2", "B": "3"}
    assert two.last("ENTRYPOINT").exec_form == ["p", "-q"]
    assert one.last("RUN").exec_form is None
    assert substituted("${A}-$B-$C", {"A": "1", "B": "2"}) == "1-2-"


def test_the_check_knows_every_instruction_the_dockerfile_has() -> None:
    carried_out = {"ENV", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "HEALTHCHECK"}
    said_only = {"SHELL", "LABEL", "EXPOSE", "STOPSIGNAL"}
    assert {each.name for stage in STAGES for each in stage.instructions} <= carried_out | said_only
    assert container_check.DOCKERFILE == DOCKERFILE


def test_every_step_works_and_the_result_answers_as_a_container_would() -> None:
    reason = container_check.why_not()
    if reason:
        pytest.skip(reason)
    command = [sys.executable, "-m", "deploy.container_check", "--reuse"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
