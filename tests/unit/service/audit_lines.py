"""Reads what the audit log wrote, each line against the schema that ships with the documents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "audit_event.schema.json").read_text())
_VALIDATOR = Draft202012Validator(SCHEMA)


def read(lines: Iterable[bytes | str]) -> list[dict[str, Any]]:
    """The events in these lines."""
    events = [json.loads(line) for line in lines]
    for event in events:
        _VALIDATOR.validate(event)
    return events
