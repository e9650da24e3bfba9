"""A worker of the lab that is quick, and misbehaves where it is asked to by the name of the model."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lab.environment import USER
from lab.work import confined


def say(**message: Any) -> None:
    """One message to the lab."""
    print(json.dumps(message), flush=True)


def about_itself(out: Path) -> dict[str, Any]:
    """Whom this process runs as, and what it can do to the lab that started it."""
    data = out.parents[1]
    (out / "picture-0.png").write_bytes(b"\x89PNG")
    tried: dict[str, Any] = {
        "read the state": lambda: (data / "lab.sqlite3").read_bytes(),
        "list the jobs": lambda: os.listdir(data / "jobs"),
        "list the uploads": lambda: os.listdir(data / "uploads"),
        "write beside its folder": lambda: (data / "jobs" / "x").write_text(""),
        "replace its log": lambda: (out / "log.txt").unlink(),
        "become root": lambda: os.setuid(0),
    }
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "could": [name for name in tried if _could(tried[name])],
    }


def _could(action: Any) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def answer(request: dict[str, Any]) -> None:
    """Do what the model's name says."""
    what = Path(request["subject"]["model"]).name
    print(f"asked to {request['task']}", file=sys.stderr, flush=True)
    if what == "slow.onnx":
        for done in range(1000):
            say(progress=["waiting", done, 1000])
            time.sleep(0.05)
    elif what == "hungry.onnx":
        held = [bytearray(os.urandom(1 << 20) * 64) for _ in range(4)]
        time.sleep(30)
        say(result={"held": len(held)})
    elif what == "dying.onnx":
        os.kill(os.getpid(), 9)
    elif what == "loud.onnx":
        sys.stdout.write("x" * (20 << 20))
        sys.stdout.flush()
    elif what == "wrong.onnx":
        say(refused={"field": "model", "sentence": "expected a model, got something else", "proposal": {"input_range": "0,255"}})
    elif what == "broken.onnx":
        say(failed="internal")
    elif what == "who.onnx":
        say(result=about_itself(Path(request["out"])))
    elif what == "odd.onnx":
        print("not JSON", flush=True)
        say(something="else")
        say(result={"fine": True})
    else:
        (Path(request["out"]) / "picture-0.png").write_bytes(b"\x89PNG")
        say(progress=["looking", 1, 1])
        say(result={"task": request["task"], "options": request["options"], "environment": sorted(os.environ)})


if __name__ == "__main__":
    if USER in os.environ:
        confined.confine()
    for line in sys.stdin:
        answer(json.loads(line))
