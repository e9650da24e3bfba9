"""Chromium for tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium on the PATH; where there is none, the test fails on CI and is skipped elsewhere."""
    program = shutil.which("chromium")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_SWITCHES)
        yield browser
        browser.close()


def overflow(page: Page) -> int:
    """Pixels of the page beyond the right edge of the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


# WCAG 2.2, contrast ratio; what lies behind a text is the nearest opaque background with the translucent ones before it on top.
_FAINT_TEXTS = """least => {
    const parse = (colour) => {
        const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
        return { rgb: [r, g, b], a };
    };
    const over = (top, under) => top.rgb.map((value, i) => value * top.a + under[i] * (1 - top.a));
    const behind = (element) => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
        const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
        return layers.reduce((under, layer) => over(layer, under), canvas);
    };
    const luminance = (rgb) => {
        const linear = rgb.map((value) => value / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join(" ").trim();
        if (!text || element.closest("style, script, noscript") || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const under = behind(element);
        const ink = parse(element.closest("svg") ? style.fill : style.color);
        const found = contrast(over(ink, under), under);
        if (found < least) faint.push(`${text.slice(0, 40)}: ${found.toFixed(1)}`);
    }
    return faint;
}"""


def faint_texts(page: Page, least: float = 4.5) -> list[str]:
    """Visible texts whose contrast with the background is below `least`, each with its contrast."""
    found: list[str] = page.evaluate(_FAINT_TEXTS, least)
    return found
