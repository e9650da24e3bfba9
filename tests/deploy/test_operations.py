"""docs/operations.md speaks of what there is."""

from __future__ import annotations

import re

import yaml

from service.settings import SETTINGS
from tests.service.conftest import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()


def test_its_links_lead_somewhere() -> None:
    for file, section in re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", TEXT):
        assert (ROOT / "docs" / file).is_file()
        text = (ROOT / "docs" / file).read_text() if file.endswith(".md") else ""
        titles = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        assert not section or section in titles


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {"serve", "up", "container-check"} <= named <= targets


def test_its_alerts_and_settings_exist() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml").read_text())["groups"]
    assert set(re.findall(r"Hauberk[A-Z]\w+", TEXT)) <= {rule["alert"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"HAUBERK_\w+", TEXT)) <= {setting.name for setting in SETTINGS}


def test_what_its_commands_replace_in_the_configuration_is_there() -> None:
    (replaced,) = re.findall(r"sed -i 's/(.+?)/", TEXT)
    assert replaced in (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
