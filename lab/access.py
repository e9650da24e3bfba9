"""How the lab's folders are made, so that workers reach what they need of them and nothing else.

Where root starts a lab and names another user, workers run as that user (`lab.work.confined`). Then folders are of three kinds:

    passages      can be entered, but neither listed nor written: the lab's own, those of sessions
    workplaces    workers write there, and can change nothing of what the lab wrote: a job's folder, an upload's
    readable      what the lab wrote for workers to read

Otherwise all of them are the lab's own.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.environment import USER
from models.errors import InvalidInput

_ROOT = Path(__file__).parents[1]
_LOOK_S = 20.0
# Runs as the user: says the first of the places that it may not enter.
_LOOK = """
import os, sys
for place in sys.argv[1:]:
    try:
        os.chdir(place)
    except OSError:
        sys.exit(place)
"""


@dataclass(frozen=True)
class WorkerUser:
    """A user that has nothing to say on this machine."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Self:
        """A user of this machine. Raises: InvalidInput: there is none, it is root, or this process is not root's."""
        if os.geteuid() != 0:
            raise InvalidInput("expected --user of a lab that root starts: only root can run workers as another user")
        try:
            found = pwd.getpwnam(name)
        except (KeyError, ValueError) as failure:
            raise InvalidInput(f"expected --user with the name of a user of this machine, got {name!r}") from failure
        if found.pw_uid == 0:
            raise InvalidInput(f"expected --user with a user other than root, got {name!r}")
        return cls(name, found.pw_uid, found.pw_gid)

    def check_enters(self, data: Path) -> None:
        """Raises: InvalidInput: it may not enter the lab's data, or the directories that hold Hauberk and its packages."""
        needed = dict.fromkeys([str(data), str(_ROOT), sys.prefix, *(one for one in sys.path if os.path.isdir(one))])
        place = self._kept_out_of(needed)
        if place:
            what = "choose another with --data" if Path(place) == data else "install Hauberk and its Python where it may"
            raise InvalidInput(f"expected directories that {self.name} may enter, got {place}; {what}")

    def _kept_out_of(self, places: Iterable[str]) -> str:
        """The first of these places that it may not enter, Python's own among them; "" when it enters all."""
        python = os.path.realpath(sys.executable)
        try:
            ran = subprocess.run(  # noqa: S603  # this interpreter and a text of ours
                [python, "-I", "-S", "-c", _LOOK, *places],
                user=self.uid, group=self.gid, extra_groups=(), cwd="/", capture_output=True, text=True, timeout=_LOOK_S, check=False,
            )  # fmt: skip
        except PermissionError:
            return os.path.dirname(python)
        return (ran.stderr.strip().splitlines() or [sys.base_prefix])[-1] if ran.returncode else ""


@dataclass(frozen=True)
class Access:
    """Makes folders.

    Args:
        user: whom workers run as; the lab's own user when none.
    """

    user: WorkerUser | None = None

    def passage(self, place: Path) -> None:
        """Make a folder that workers pass through."""
        self._made(place, 0o710)

    def workplace(self, place: Path) -> None:
        """Make a folder that workers write into. What the lab wrote there they can neither remove nor replace."""
        self._made(place, 0o1770)

    def readable(self, path: Path) -> None:
        """Let workers read a file, or all of a folder, that the lab itself has written."""
        if self.user is None:
            return
        for one in (path, *(path.rglob("*") if path.is_dir() else ())):
            mode = one.lstat().st_mode
            os.chown(one, 0, self.user.gid, follow_symlinks=False)
            if not stat.S_ISLNK(mode):
                one.chmod(0o750 if stat.S_ISDIR(mode) else 0o640)

    def environment(self, home: Path) -> dict[str, str]:
        """What a worker is told of its user; `home` is the folder that its libraries keep their caches in."""
        if self.user is None:
            return {}
        return {USER: f"{self.user.uid}:{self.user.gid}", "HOME": str(home)}

    def _made(self, place: Path, mode: int) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user is None:
            place.chmod(0o700)
            return
        os.chown(place, 0, self.user.gid)
        place.chmod(mode)


OWN = Access()
"""Workers run as the lab's own user."""
