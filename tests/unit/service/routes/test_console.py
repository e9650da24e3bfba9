"""What the console says about the service, and to whom it shows its page."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from defences.table import DEFENCES
from models.bundle import EXAMPLE, Bundle
from service.observing.metrics import Metrics
from service.routes.console import FILES, LABELS_AT_MOST, MEDIA_TYPES, PAGE, Console, prefers_html
from service.serving import Serving

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
STYLE = (FILES / "theme.css").read_text()


def console(bundle: Bundle, **options: Any) -> Console:
    metrics = Metrics(CollectorRegistry(), labels=bundle.labels, build=("1.0", bundle.name, bundle.version))
    return Console(Serving(bundle, metrics, "1.0", images_at_most=4, listens_on_loopback=True, **options))


def with_settings(bundle: Bundle, **settings: Any) -> Bundle:
    return dataclasses.replace(bundle, settings={**bundle.settings, **settings})


@pytest.mark.parametrize(
    "accept",
    [BROWSER, b"text/html", b"TEXT/HTML; charset=utf-8", b"application/json;q=0.5, text/html;q=0.5", b"*/*, text/html;q=0.1"],
)
def test_who_asks_for_html_gets_the_page(accept: bytes) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [b"", b"*/*", b"text/*", b"application/json", b"text/html;q=0, */*", b"text/html;q=0.5, application/json", b"text/html;q=x"],
)
def test_everybody_else_gets_json(accept: bytes) -> None:
    assert not prefers_html(accept)


def words(name: str) -> dict[str, str]:
    record = DEFENCES[name].record
    return {"title": record.title, "stage": record.stage, "summary": record.summary}


def test_every_defence_is_described_in_the_order_of_the_data_path(bundle: Bundle) -> None:
    declared = [{"name": name, "mode": "enforce"} for name in reversed(DEFENCES)]
    told = console(with_settings(bundle, defences=declared)).facts(shows_metrics=True)["defences"]
    assert [fact["name"] for fact in told] == list(DEFENCES)
    stages = [fact["stage"] for fact in told]
    assert stages == sorted(stages, key=["purify", "abstain", "obscure"].index)
    assert all(fact["title"] and fact["summary"].endswith(".") for fact in told)


def test_of_a_defence_the_name_the_mode_in_force_and_constant_words_are_told_and_no_parameter(bundle: Bundle) -> None:
    declared = [
        {"name": "reverse_sigmoid", "mode": "enforce", "beta": 0.123},
        {"name": "strip", "mode": "enforce", "weight": 0.456, "stages": [1, 2]},
    ]
    made = console(with_settings(bundle, defences=declared), modes={"strip": "monitor", "total_variation": "off"})
    told = made.facts(shows_metrics=True)["defences"]
    assert told == [
        {"name": "strip", "mode": "monitor", **words("strip")},
        {"name": "reverse_sigmoid", "mode": "enforce", **words("reverse_sigmoid")},
    ]


def test_of_many_labels_a_bounded_number_is_told(bundle: Bundle) -> None:
    labels = [f"label {i}" for i in range(LABELS_AT_MOST + 7)]
    facts = console(with_settings(bundle, classifier={**bundle.settings["classifier"], "labels": labels})).facts(False)
    assert (facts["classes"], len(facts["labels"])) == (LABELS_AT_MOST + 7, LABELS_AT_MOST)


def test_metrics_are_linked_only_where_they_are_served(bundle: Bundle) -> None:
    made = console(bundle)
    assert "metrics" in made.facts(True)["links"]
    assert "metrics" not in made.facts(False)["links"]


def test_an_example_is_linked_where_the_bundle_has_one(bundle: Bundle, tmp_path: Path) -> None:
    bundle = dataclasses.replace(bundle, directory=tmp_path)
    assert "example" not in console(bundle).facts(False)["links"]
    content = b'{"images": []}'
    (bundle.directory / EXAMPLE).write_bytes(content)
    assert "example" not in console(bundle).facts(False)["links"]  # the card does not list it
    made = console(dataclasses.replace(bundle, card={"files": {EXAMPLE: hashlib.sha256(content).hexdigest()}}))
    assert made.routes().keys() >= {made.facts(False)["links"]["example"]}


def test_the_state_is_that_of_the_readiness_check(bundle: Bundle) -> None:
    assert console(bundle).facts(True)["state"] == "starting"
    assert console(bundle, stopping=True).facts(True)["state"] == "stopping"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def test_the_page_has_no_inline_code_and_names_only_parts_that_exist() -> None:
    page = Tags((FILES / PAGE).read_text())
    assert page.scripts == []
    for tag, attributes in page.tags:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            if (attributes.get(name) or "").startswith("console/"):
                assert (FILES / str(attributes[name]).removeprefix("console/")).is_file()


def test_no_file_of_the_page_names_another_origin_or_makes_markup_of_text() -> None:
    for path in FILES.iterdir():
        assert path.suffix in MEDIA_TYPES
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|[\"'(]//", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), path.name


def colours(dark: bool) -> dict[str, str]:
    light, _, rest = STYLE.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    return found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", rest.partition("* {")[0])) if dark else found


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ("ink", "page"), ("ink", "card"), ("soft", "card"), ("soft", "track"), ("steel", "card"), ("steel-ink", "steel"),
        ("good", "card"), ("warn", "card"), ("warn", "warn-back"), ("ink", "warn-back"), ("bad", "bad-back"), ("ink", "bad-back"),
    ],
)  # fmt: skip
def test_every_text_has_the_contrast_that_wcag_asks_for(text: str, behind: str, dark: bool) -> None:
    palette = colours(dark)
    lighter, darker = sorted((luminance(palette[text]), luminance(palette[behind])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
