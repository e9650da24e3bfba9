"""python -m service.lifecycle.container: the command of the container. It makes the directories that have to be writable, then becomes
the server: process 1.

The root file system may be read-only; everything that is written goes below /tmp, or wherever BENTOML_HOME and NUMBA_CACHE_DIR point.
Numba looks for compiled kernels in NUMBA_CACHE_DIR only, and wants to write there: those that the image brings, in KERNELS_DIR, are
copied. On another kind of processor they are compiled again, which takes a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from models.errors import InvalidInput
from service.lifecycle.directories import make_home, make_writable

KERNELS, CACHE = "KERNELS_DIR", "NUMBA_CACHE_DIR"
# BentoML ends a worker this long after it told it to end; the drain and the deadline fit in.
_OPTIONS = ("--host", "0.0.0.0", "--port", "3000", "--timeout-graceful-shutdown", "30")  # noqa: S104  # a container's own address


def prepare(environment: Mapping[str, str]) -> None:
    """Make the directories, and bring the kernels to where Numba looks for them. Raises: InvalidInput."""
    make_home(environment)
    cache, kernels = make_writable(CACHE, Path(environment[CACHE])), Path(environment.get(KERNELS, ""))
    if environment.get(KERNELS) and kernels.is_dir():
        shutil.copytree(kernels, cache, dirs_exist_ok=True)  # with their times: Numba compares those of the sources


def main() -> None:
    """Prepare, and be replaced by the server: signals and exit code are its own."""
    try:
        prepare(os.environ)
    except InvalidInput as mistake:
        print(f"hauberk: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    bento = Path(__file__).parents[3]
    command = [sys.executable, "-P", "-m", "bentoml", "serve", str(bento), *_OPTIONS, *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606  # no shell, and nothing in it comes from a client


if __name__ == "__main__":
    main()
