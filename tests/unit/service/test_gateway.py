"""What importing the service does, and what it does not."""

from __future__ import annotations

import subprocess
import sys

IMPORT = """
import sys
import service.gateway
print([name for name in ("tensorflow", "keras", "numba", "sklearn", "prometheus_client") if name in sys.modules])
import os
print(os.environ["BENTOML_DO_NOT_TRACK"], os.environ["OTEL_SDK_DISABLED"])
"""


def test_the_parent_process_imports_no_heavy_library_and_tracks_nobody() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines() == ["[]", "True true"]
