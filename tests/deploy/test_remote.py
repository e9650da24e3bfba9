"""The gateway in front of a model server: the compose file and the overlay, read as they would run, and checked for what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from models.engines.remote.address import RemoteAddress
from service.settings import read_settings
from tests.bundles import write
from tests.deploy.test_kubernetes import KUBERNETES, VERSIONS, Rendered
from tests.service.conftest import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.remote.yaml").read_text())
GATEWAY, TRITON = COMPOSE["services"]["gateway"], COMPOSE["services"]["triton"]
BASE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]


@pytest.fixture(scope="module")
def rendered(tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The overlay's resources by kind and name, with a bundle and a secret as it says to make them."""
    kubectl = tool("kubectl", "kubectl 1.27 or newer")
    tree = shutil.copytree(KUBERNETES, tmp_path_factory.mktemp("kubernetes") / "kubernetes")
    overlay = tree / "overlays" / "triton"
    write(overlay / "bundle")
    (overlay / "bundle" / "example.json").write_text("{}")
    (tree / "overlays" / "development" / "secret").write_text("0123456789abcdef" * 4)
    ran = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, "kustomize warns of nothing"
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(ran.stdout)}


def pod(rendered: Rendered, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = rendered["Deployment", name]["spec"]["template"]["spec"]
    return spec


def environment(rendered: Rendered) -> dict[str, str]:
    (container,) = pod(rendered, "hauberk")["containers"]
    return {variable["name"]: variable.get("value", "2") for variable in container["env"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_one_of_kubernetes_own(rendered: Rendered, version: str) -> None:
    for resource in rendered.values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_both_pods_are_what_the_restricted_standard_demands(rendered: Rendered) -> None:
    for name in ("hauberk", "triton"):
        spec = pod(rendered, name)
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        only = container["securityContext"]
        assert (only["allowPrivilegeEscalation"], only["readOnlyRootFilesystem"]) == (False, True)
        assert only["capabilities"] == {"drop": ["ALL"]}
        assert not spec["automountServiceAccountToken"]


def test_the_gateway_asks_the_service_that_is_there_at_its_port(rendered: Rendered) -> None:
    address = RemoteAddress.parse(environment(rendered)["HAUBERK_REMOTE"])
    service = rendered["Service", address.host]["spec"]
    assert address.port in {port["port"] for port in service["ports"]}
    labels = rendered["Deployment", "triton"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_the_gateway_takes_its_settings_and_finds_its_bundle(rendered: Rendered, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0" * 48)
    settings = read_settings(environment(rendered) | {"HAUBERK_SECRET_FILE": str(secret)})
    (container,) = pod(rendered, "hauberk")["containers"]
    (volume,) = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(settings.bundle)]
    (name,) = [each["secret"]["secretName"] for each in pod(rendered, "hauberk")["volumes"] if each["name"] == volume]
    assert set(rendered["Secret", name]["data"]) == {"hauberk.toml", "card.json", "calibration.npz", "example.json"}


def test_only_the_gateway_reaches_the_model_server_and_it_reaches_nothing_else_but_names(rendered: Rendered) -> None:
    (came,) = rendered["NetworkPolicy", "triton"]["spec"]["ingress"]
    assert came["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "hauberk"}}}]
    assert rendered["NetworkPolicy", "triton"]["spec"]["egress"] == []
    models, names = rendered["NetworkPolicy", "hauberk"]["spec"]["egress"]
    assert models["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "triton"}}}]
    assert {port["port"] for port in names["ports"]} == {53}
    assert rendered["NetworkPolicy", "hauberk"]["spec"]["ingress"]


def test_what_is_private_beside_them_is_ignored_by_git() -> None:
    assert "bundle/" in (KUBERNETES / "overlays" / ".gitignore").read_text().split()
    assert "/deploy/remote/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_compose_file_is_confined_and_its_model_server_is_reached_by_the_gateway_alone() -> None:
    assert re.fullmatch(r"[a-z./]+:\d+\.\d+-py3", TRITON["image"])
    assert TRITON["image"] in (KUBERNETES / "overlays" / "triton" / "triton.yaml").read_text()
    assert (TRITON["read_only"], TRITON["cap_drop"], TRITON["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert "ports" not in TRITON
    assert TRITON["networks"] == ["models"]
    assert COMPOSE["networks"]["models"]["internal"]
    assert set(GATEWAY["networks"]) == {"default", "models"}
    mounts = [volume.split(":") for service in (GATEWAY, TRITON) for volume in service["volumes"]]
    assert all(source.startswith("./remote/") and mode == "ro" for source, _, mode in mounts)


def test_the_gateway_of_the_compose_file_takes_its_settings(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0" * 48)
    settings = read_settings(BASE["environment"] | GATEWAY["environment"] | {"HAUBERK_SECRET_FILE": str(secret)})
    assert settings.remote is not None
    address = RemoteAddress.parse(settings.remote)
    assert address.host in COMPOSE["services"]
    assert str(settings.bundle) in {volume.split(":")[1] for volume in GATEWAY["volumes"]}
