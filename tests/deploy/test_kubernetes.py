"""The Kubernetes overlays: rendered by kubectl, checked against Kubernetes' own schemas and against what they are meant to say.

ServiceMonitor and PrometheusRule belong to the Prometheus operator, whose schemas no package ships: their fields are listed here.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service.settings import read_settings
from tests.service.conftest import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("development", "production")
# preStop.sleep is in from 1.30 on, for everybody.
VERSIONS = ("1.30", "1.33", "1.37")
OPERATORS = {
    "ServiceMonitor": {
        "jobLabel",
        "selector",
        "namespaceSelector",
        "sampleLimit",
        "labelLimit",
        "labelNameLengthLimit",
        "labelValueLengthLimit",
        "bodySizeLimit",
        "endpoints",
    },
    "PrometheusRule": {"groups"},
}

Resource = dict[str, Any]
Rendered = dict[tuple[str, str], Resource]


@pytest.fixture(scope="session", params=OVERLAYS)
def rendered(
    request: pytest.FixtureRequest, tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> Rendered:
    """An overlay's resources by kind and name, with secrets as the overlay says to make them."""
    kubectl = tool("kubectl", "kubectl 1.27 or newer")
    tree = shutil.copytree(KUBERNETES, tmp_path_factory.mktemp("kubernetes") / "kubernetes")
    overlay = tree / "overlays" / request.param
    (overlay / "secret").write_text("0123456789abcdef" * 4 + "\n")
    (overlay / "clients.toml").write_text(f'[clients.a]\nkey_sha256 = "{"0" * 64}"\n')
    ran = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, "kustomize warns of nothing"
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(ran.stdout)}


def one(rendered: Rendered, kind: str) -> Resource:
    (found,) = (resource for (of, _), resource in rendered.items() if of == kind)
    return found


def pod(rendered: Rendered) -> Resource:
    template: Resource = one(rendered, "Deployment")["spec"]["template"]
    return template


def container(rendered: Rendered) -> Resource:
    (found,) = pod(rendered)["spec"]["containers"]
    return dict(found)


def selects(selector: Resource, labels: Resource) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_one_of_kubernetes_own(rendered: Rendered, version: str) -> None:
    for (kind, _), resource in rendered.items():
        if kind in OPERATORS:
            assert set(resource["spec"]) <= OPERATORS[kind]
            assert resource["apiVersion"] == "monitoring.coreos.com/v1"
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def test_a_field_that_does_not_exist_would_be_found(rendered: Rendered) -> None:
    wrong = json.loads(json.dumps(one(rendered, "Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_everything_is_in_one_namespace_that_admits_restricted_pods_only(rendered: Rendered) -> None:
    namespace = one(rendered, "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {r["metadata"]["namespace"] for (kind, _), r in rendered.items() if kind != "Namespace"} == {namespace["name"]}


def test_the_pod_is_what_the_restricted_standard_demands_and_its_root_is_read_only(rendered: Rendered) -> None:
    spec, only = pod(rendered)["spec"], container(rendered)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] >= 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (only["allowPrivilegeEscalation"], only["readOnlyRootFilesystem"]) == (False, True)
    assert only["capabilities"] == {"drop": ["ALL"]}
    assert not spec["automountServiceAccountToken"]
    assert not one(rendered, "ServiceAccount")["automountServiceAccountToken"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {"emptyDir", "secret"} >= {kind for volume in spec["volumes"] for kind in volume if kind != "name"}


def test_the_user_is_that_of_the_image(rendered: Rendered) -> None:
    user = re.findall(r"^USER (\d+):\d+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[-1]
    assert pod(rendered)["spec"]["securityContext"]["runAsUser"] == int(user)


def test_selectors_find_the_pod_and_ports_exist(rendered: Rendered) -> None:
    labels = pod(rendered)["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container(rendered)["ports"]}
    assert selects(one(rendered, "Deployment")["spec"]["selector"]["matchLabels"], labels)
    assert selects(one(rendered, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], labels)
    services = [resource for (kind, _), resource in rendered.items() if kind == "Service"]
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} == set(ports)
    assert all(selects(service["spec"]["selector"], labels) for service in services)
    for constraint in pod(rendered)["spec"]["topologySpreadConstraints"]:
        assert selects(constraint["labelSelector"]["matchLabels"], labels)
    assert {container(rendered)[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")} <= set(
        ports
    )


def test_only_gateways_and_prometheus_come_in_and_nothing_goes_out(rendered: Rendered) -> None:
    policy = one(rendered, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    who = {rule["ports"][0]["port"]: rule["from"][0]["podSelector"]["matchLabels"] for rule in policy["ingress"]}
    assert who == {"http": {"hauberk-access": "predictions"}, "metrics": {"app.kubernetes.io/name": "prometheus"}}


def test_the_settings_are_ones_the_gateway_takes_and_threads_follow_the_limit(rendered: Rendered, tmp_path: Path) -> None:
    environment = {variable["name"]: variable.get("value", "2") for variable in container(rendered)["env"]}
    (threads,) = (variable for variable in container(rendered)["env"] if variable["name"] == "HAUBERK_THREADS")
    assert threads["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    mounted = next(v["secret"]["secretName"] for v in pod(rendered)["spec"]["volumes"] if "secret" in v)
    keys = rendered["Secret", mounted]["data"]
    for name in ("HAUBERK_SECRET_FILE", "HAUBERK_CLIENTS_FILE"):
        if name in environment:
            directory, _, key = environment[name].rpartition("/")
            assert key in keys
            assert directory in {mount["mountPath"] for mount in container(rendered)["volumeMounts"]}
            environment[name] = str(tmp_path / key)
            (tmp_path / key).write_text("0123456789abcdef" if key == "secret" else f'[clients.a]\nkey_sha256 = "{"0" * 64}"\n')
    assert read_settings(environment).threads == 2


def test_it_has_time_to_start_and_to_end(rendered: Rendered) -> None:
    only = container(rendered)
    startup = only["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 300
    environment = {variable["name"]: variable.get("value") for variable in only["env"]}
    pauses = only["lifecycle"]["preStop"]["sleep"]["seconds"] + float(environment["HAUBERK_DRAIN_S"])
    assert pauses + float(environment["HAUBERK_DEADLINE_S"]) + 20 <= pod(rendered)["spec"]["terminationGracePeriodSeconds"]
    # The endpoints have lost the pod before the listener closes.
    assert pauses > only["readinessProbe"]["periodSeconds"] * only["readinessProbe"]["failureThreshold"]
    assert set(only["resources"]) == {"requests", "limits"}


def test_production_scales_on_what_waits_survives_a_drain_and_is_watched(rendered: Rendered) -> None:
    if ("HorizontalPodAutoscaler", "hauberk") not in rendered:
        assert not {kind for kind, _ in rendered} & {"PodDisruptionBudget", *OPERATORS}  # the development overlay
        return
    scaler = one(rendered, "HorizontalPodAutoscaler")["spec"]
    assert scaler["minReplicas"] >= 2
    assert {metric["type"] for metric in scaler["metrics"]} == {"Pods", "Resource"}
    pods = next(metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods")
    assert pods["metric"]["name"] in (ROOT / "docs" / "settings.md").read_text()
    assert "replicas" not in one(rendered, "Deployment")["spec"]
    budget = one(rendered, "PodDisruptionBudget")["spec"]
    assert selects(budget["selector"]["matchLabels"], pod(rendered)["metadata"]["labels"])
    monitor = one(rendered, "ServiceMonitor")["spec"]
    watched = rendered["Service", "hauberk-metrics"]
    assert selects(monitor["selector"]["matchLabels"], watched["metadata"]["labels"])
    assert not selects(monitor["selector"]["matchLabels"], rendered["Service", "hauberk"]["metadata"]["labels"])
    assert monitor["endpoints"][0]["port"] == watched["spec"]["ports"][0]["name"]
    assert watched["metadata"]["labels"][monitor["jobLabel"]] == "hauberk"


def test_the_operators_rules_are_those_of_prometheus() -> None:
    written = runpy.run_path(str(KUBERNETES / "rules.py"))
    assert written["OUT"].read_text() == written["document"](), "python deploy/kubernetes/rules.py writes it again"


def test_secrets_beside_an_overlay_are_ignored_by_git() -> None:
    assert {"secret", "clients.toml"} <= set((KUBERNETES / "overlays" / ".gitignore").read_text().split())
