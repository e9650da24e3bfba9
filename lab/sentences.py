"""What workers refuse, in the words of the lab's forms: the sentences of the command line name options, which a page has as fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FIELDS: Mapping[str, str] = {
    "input_range": "values of black and white",
    "preset": "usual preparation",
    "channels": "order of colours",
    "layout": "channels",
    "outputs": "outputs are",
    "colours": "pictures are read as",
    "split": "half of the file",
    "mean": "mean subtracted",
    "std": "divided by",
    "resize": "resize pictures to",
    "rows": "rows",
    "order": "class of each label",
    "labels": "class names",
}
"""The fields of the form that says how a model and its data are read, with their titles."""

_OPTION = re.compile(r"(?:hauberk [a-z]+ )?--([a-z][a-z-]*)=?")


def sentence(text: str) -> str:
    """A refusal as a sentence of a page: with a capital and a full stop, and titles of fields in the place of options.

    >>> sentence("expected pictures of one size; say --resize HEIGHTxWIDTH")
    'Expected pictures of one size; say \u201cresize pictures to\u201d HEIGHTxWIDTH.'
    """
    if not text:
        return ""
    told = _OPTION.sub(_titled, text)
    return told[0].upper() + told[1:] + ("" if told[-1] in ".!?" else ".")


def field_of(told: Mapping[str, Any]) -> str:
    """The field that a refusal belongs to: the first that its sentence names, or the one it came with."""
    named = [_name(found) for found in _OPTION.finditer(str(told.get("sentence", "")))]
    return next((name for name in named if name in FIELDS), str(told.get("field", "")))


def _name(found: re.Match[str]) -> str:
    return found[1].replace("-", "_")


def _titled(found: re.Match[str]) -> str:
    title = FIELDS.get(_name(found))
    if title is None:
        return found[0]
    return f"\u201c{title}\u201d" + (" " if found[0].endswith("=") else "")
