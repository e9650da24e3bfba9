"""A worker's own bounds, set before anything that an uploaded model could use: no network, no core file, an end with the lab."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
from typing import IO

from lab.environment import NETWORK, USER

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_FILE_BYTES = 8 << 30


def confine() -> bool:
    """Give up what a worker does not need; returns whether the network is out of reach.

    On Linux the process moves into a network namespace of its own, which holds nothing, as root directly and else through a user
    namespace. Where the system allows neither, and on others, it keeps the network; so does a worker whose lab says HAUBERK_LAB_NETWORK,
    for a cluster. Where HAUBERK_LAB_USER says UID:GID it becomes that user after that, for good.

    Raises: OSError: it cannot become that user.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = _FILE_BYTES if hard == resource.RLIM_INFINITY else min(hard, _FILE_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    os.umask(0o077)
    alone = sys.platform == "linux" and not os.environ.get(NETWORK) and _leave_the_network()
    if user := os.environ.get(USER):
        _become(*(int(one) for one in user.split(":")))
    return alone


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # no program makes it another user again


def _leave_the_network() -> bool:
    uid, gid = os.getuid(), os.getgid()
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    if unshare(_CLONE_NEWNET) == 0:
        return True
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:  # the same user inside, or files of its own would seem somebody else's
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError:
        pass
    return True


def own_stdout() -> IO[str]:
    """The pipe to the lab; what libraries print goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return pipe


def requests() -> IO[str]:
    """The lab's requests, line by line; nothing else can read them."""
    pipe = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


def end_with_parent() -> None:
    """End this process when the lab has ended, whatever it is in the middle of."""
    parent = os.getppid()

    def watch() -> None:
        waiting = threading.Event()
        while os.getppid() == parent:
            waiting.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
