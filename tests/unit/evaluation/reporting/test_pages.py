"""The pages of `hauberk evaluate` and both of `hauberk scan` in Chromium, on a telephone and on a screen, in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from defences.poison.activation_clustering import ActivationClustering
from evaluation.reporting.page import page as evaluation_page
from evaluation.reporting.plots import COLOURS, evasion_curves, themed
from evaluation.scanning.network_page import network_page
from evaluation.scanning.network_scan import scan_network
from evaluation.scanning.scan_page import scan_page
from evaluation.scanning.scan_report import build
from tests.browser import chromium, faint_texts, overflow
from tests.fakes import LinearClassifier
from tests.poisoned import features
from tests.reports import VARIANTS, wide_report

ColorScheme = Literal["light", "dark"]
TELEPHONE, SCREEN = 390, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages as files, by command."""
    directory = tmp_path_factory.mktemp("pages")
    texts = {"evaluate": evaluation_page(wide_report()), "scan": scanned(), "scan --model-only": judged()}
    for name, text in texts.items():
        (directory / f"{name.replace(' ', '_')}.html").write_text(text, encoding="utf-8")
    return {name: directory / f"{name.replace(' ', '_')}.html" for name in texts}


def scanned() -> str:
    """The page of a scan that found poison in one class of four."""
    data, truth = features(poison=60)
    found = ActivationClustering().detect(data).judged(truth, data.labels)
    assert found.poisoned
    report = build(
        [found],
        found.is_clean,
        truth=truth,
        hauberk="0.0.0",
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        classifier={"file": "model.keras", "layer": "dense", "earlier_layer": "pooling"},
        data={"file": "a_training_set_with_a_long_name.npz", "samples": len(truth), "classes": 4},
        seed=0,
    )
    return scan_page(report, [found], data.labels, lambda rows: np.zeros((len(rows), 28, 28, 1), np.float32), truth)


def judged() -> str:
    """The page of a network with a backdoor to one class of ten."""
    weights = np.random.default_rng(0).normal(size=(144, 10)) * 0.3
    weights[77, 4] += 20
    found = scan_network(LinearClassifier(weights, -weights.sum(axis=0) * 0.4, (12, 12, 1)))
    assert found.report.suspicious_classes == ["4"]
    return network_page(found.report, found.findings)


def opened(browser: Browser, file: Path, width: int, scheme: ColorScheme = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    return page


@pytest.mark.parametrize("width", [TELEPHONE, SCREEN])
@pytest.mark.parametrize("command", ["evaluate", "scan", "scan --model-only"])
def test_the_page_never_scrolls_sideways_and_cuts_nothing_off(
    browser: Browser, pages: dict[str, Path], command: str, width: int
) -> None:
    page = opened(browser, pages[command], width)
    assert overflow(page) == 0
    beyond = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((each) => !each.closest(".scroll") || each.matches(".scroll"))
            .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth)
            .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    page.close()


@pytest.mark.parametrize("command", ["evaluate", "scan", "scan --model-only"])
def test_on_a_screen_every_column_of_every_table_is_seen_without_scrolling(
    browser: Browser, pages: dict[str, Path], command: str
) -> None:
    page = opened(browser, pages[command], SCREEN)
    hidden = page.evaluate(
        """() => [...document.querySelectorAll(".scroll")].filter((each) => each.scrollWidth > each.clientWidth)
            .map((each) => each.getAttribute("aria-label"))"""
    )
    assert hidden == []
    page.close()


def test_on_a_telephone_a_table_scrolls_and_its_first_column_stays(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["evaluate"], TELEPHONE)
    table = page.locator(".scroll:has(.grid)").first
    assert table.evaluate("(each) => each.scrollWidth > each.clientWidth")
    first = table.locator("tbody th").first
    before = first.bounding_box()
    table.evaluate("(each) => (each.scrollLeft = 300)")
    after = first.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] == pytest.approx(before["x"], abs=1)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("command", ["evaluate", "scan", "scan --model-only"])
def test_every_text_pictures_included_can_be_read_in_light_and_in_dark(
    browser: Browser, pages: dict[str, Path], command: str, scheme: ColorScheme
) -> None:
    page = opened(browser, pages[command], SCREEN, scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert (red < 64) == (scheme == "dark")
    assert faint_texts(page) == []
    page.close()


def test_a_drawing_takes_the_colours_of_the_page_and_keeps_none_of_its_own() -> None:
    plain = evasion_curves(wide_report().curves)
    found = themed(plain)
    assert len(VARIANTS) > 4
    assert COLOURS[0] in plain
    assert "var(--series-1)" in found
    assert "currentColor" in found
    assert re.findall(r": (#[0-9a-f]{6})\b", found) == []
