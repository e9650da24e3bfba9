"""python deploy/kubernetes/rules.py: write the rules of deploy/prometheus as a PrometheusRule for the Prometheus operator."""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules"
OUT = HERE / "overlays" / "production" / "prometheusrule.yaml"
_HEAD = "# Written by deploy/kubernetes/rules.py from deploy/prometheus/rules: change those.\n"


def document() -> str:
    """The file's text."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "hauberk", "labels": {"app.kubernetes.io/name": "hauberk"}},
        "spec": {"groups": groups},
    }
    return _HEAD + str(yaml.safe_dump(resource, sort_keys=False, width=140))


if __name__ == "__main__":
    OUT.write_text(document())
