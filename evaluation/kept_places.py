"""Places of finished work below an output directory: one a plan, so that work goes on after a kill, and the last few plans' only.

Every change of model, data, options or code is another plan. Without a bound, the work of plans that are never run again would fill the
disk; so the places that have not been used for longest are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAME = re.compile("[0-9a-f]{12}")


def place_of(directory: Path, plan: Mapping[str, Any]) -> Path:
    """Where the work of this plan lies."""
    return directory / hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]


def use_place(place: Path, *, keep: int) -> None:
    """Make it, or take it as it is, and remove others until `keep` are left beside it; those used last stay.

    Whatever else lies in the directory, and links, are left alone. Raises: OSError when the place cannot be made.
    """
    place.mkdir(parents=True, exist_ok=True)
    os.utime(place)
    others = [each for each in place.parent.iterdir() if each != place and _NAME.fullmatch(each.name) and each.is_dir()]
    others = [each for each in others if not each.is_symlink()]
    for old in sorted(others, key=lambda each: each.stat().st_mtime_ns, reverse=True)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
