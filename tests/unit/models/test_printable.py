"""Names from outside: nothing that a terminal would obey is left in them, and reports keep what they were."""

from __future__ import annotations

import json
import sys

import pytest

from models.printable import printable, printable_json

HOSTILE = {
    "an escape sequence": "\x1b[2J",
    "a forged line": "m\nworst case 0.0 % answered wrong",
    "a carriage return": "m\rhauberk: fine",
    "an escape of one byte": "\x9b31m",
    "a backspace": "m\b\b",
    "delete": "\x7f",
    "text from right to left": "gnp.\u202ecat",
    "an isolate": "\u2066m\u2069",
    "a line separator": "m\u2028forged",
    "no width": "m\u200b\ufeff",
    "a tag": "m\U000e0041",
    "half a character": "m\ud800",
    "private use": "m\ue000",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_every_character_that_is_not_printable_is_shown_as_an_escape(what: str) -> None:
    shown = printable(HOSTILE[what])
    assert shown.isprintable()
    assert "\\" in shown
    assert len(shown.encode("utf-8").splitlines()) == 1


def test_names_of_any_language_stay_as_they_are() -> None:
    for name in ("cat", "Äpfel", "猫", "кошка", "قطة", "a b\\c", "🐈", ""):
        assert printable(name) == name


def test_no_code_point_that_is_not_printable_is_left() -> None:
    for code in range(sys.maxunicode + 1):
        if not chr(code).isprintable():
            assert printable(chr(code)).isascii()


def test_a_json_report_is_the_same_document_and_printable_line_by_line() -> None:
    document = {"names": [name for name in HOSTILE.values() if "\ud800" not in name], "n": 1}
    text = printable_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert json.loads(text) == document
    assert all(line.isprintable() for line in text.split("\n"))
