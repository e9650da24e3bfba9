"""The clusters of one class of a scan, as its worker wrote them (`lab.work.samples`), a small file a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE_AT_MOST = 1 << 20


def file_of(label: int) -> str:
    """The name of the file of a class."""
    return f"clusters-{label}.json"


def clusters_of(place: Path, label: int) -> dict[str, Any] | None:
    """What a class's file says: class, samples, method, and points (row, x, y, in the second cluster, suspicious); None without one."""
    path = place / file_of(label)
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _FILE_AT_MOST:
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:  # a worker that had opened what somebody uploaded wrote it
        return None
    return found if isinstance(found, dict) and found.get("points") else None
