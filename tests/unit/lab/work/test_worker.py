"""A worker's own bounds, its loop, and its tasks on a classifier that is quick."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.errors import Refused
from lab.offered import ATTACKS
from lab.subject import Subject
from lab.work import attacking, defending, reading
from lab.work.brought import Brought, Kept
from lab.work.loop import AnotherReading, Asked, serve
from lab.work.pictures import amplified, for_page
from models.accuracy import judge
from models.datasets import Dataset
from models.errors import InvalidInput
from models.progress import Progress, silent
from tests.fakes import linear, linear_with_gradients, noise

ROOT = Path(__file__).parents[4]
SUBJECT: dict[str, Any] = {"model": "/m.onnx", "data": "/d.npz"}


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_worker_is_out_of_the_network_where_the_system_lets_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
import socket, resource
from lab.work.confined import confine
alone = confine()
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2)
    reached = True
except OSError:
    reached = False
print(alone, reached, resource.getrlimit(resource.RLIMIT_CORE)[0])
"""
        ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    alone, reached, core = ran.stdout.split()
    assert (alone == "True") != (reached == "True")
    assert core == "0"


def test_what_libraries_print_does_not_reach_the_lab_and_the_end_of_requests_ends_the_worker() -> None:
    code = """
from lab.work import confined, loop
requests, answers = confined.requests(), confined.own_stdout()
def task(request):
    print("noise")
    assert input is not None and not __import__("sys").stdin.read()
    return {"model": request.subject.model}
loop.serve({"read": task}, requests, answers)
"""
    asked = json.dumps({"task": "read", "subject": SUBJECT, "options": {}, "out": "out"})
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=asked + "\n", capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {"result": {"model": "/m.onnx"}}
    assert "noise" in ran.stderr


def test_a_worker_ends_when_the_lab_has() -> None:
    code = "import time\nfrom lab.work.confined import end_with_parent\nend_with_parent()\nprint(flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE)\n"
    parent += "child.stdout.readline()\nprint(child.pid, flush=True)"
    ran = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended(int(ran.stdout), within_s=10)


def ended(pid: int, *, within_s: float) -> bool:
    """Whether a process is gone, or has ended and was not asked after, in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def served(task: Any, **request: Any) -> list[dict[str, Any]]:
    asked = json.dumps({"task": "read", "subject": SUBJECT, "options": {}, "out": "out", **request})
    answers = io.StringIO()
    serve({"read": task}, io.StringIO(asked + "\n"), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def raising(failure: Exception) -> Any:
    def task(asked: Asked) -> dict[str, Any]:
        asked.progress("working", 1, 2)
        raise failure

    return task


def test_every_failure_of_a_task_is_one_message() -> None:
    assert served(raising(Refused("data", "no")))[1] == {"refused": {"field": "data", "sentence": "no"}}
    assert served(raising(InvalidInput("bad")))[1] == {"refused": {"field": "", "sentence": "bad"}}
    assert served(raising(RuntimeError("secret")))[1] == {"failed": "internal"}
    assert served(raising(OSError(28, "No space left on device")))[1]["refused"]["sentence"].endswith("no space left on device.")
    assert "fewer images" in served(raising(MemoryError()))[1]["refused"]["sentence"]
    found = served(raising(AnotherReading("otherwise", {"preset": "tf"})))[1]
    assert found == {"refused": {"field": "model", "sentence": "otherwise", "proposal": {"preset": "tf"}}}
    assert served(raising(ValueError()))[0] == {"progress": ["working", 1, 2]}
    assert served(None, subject={"model": ""})[0]["refused"]["field"] == "model"


SHAPE = (8, 8, 1)


def brought(*, gradients: bool = True, images: int = 60) -> Brought:
    classifier = linear_with_gradients(SHAPE, 3) if gradients else linear(SHAPE, 3)
    some = noise(images, SHAPE, 1)
    data = Dataset(some, classifier.predict(some).argmax(axis=1))
    return Brought(classifier, data, judge(classifier, data, advice=None), "it reads", None, lambda: classifier)


def asked(out: Path, **options: Any) -> Asked:
    return Asked(Subject(**SUBJECT), options, out, silent)


def test_what_was_read_is_said_with_twenty_pictures_of_all_classes(tmp_path: Path) -> None:
    found = reading.read(lambda *_: brought(), asked(tmp_path))
    assert (found["shape"], found["images"], found["classes"], found["gradients"]) == ([8, 8, 1], 60, 3, True)
    assert found["accuracy"]["rate"] == 1.0
    assert len(found["pictures"]) == 20
    assert all((tmp_path / one["file"]).is_file() and one["right"] for one in found["pictures"])
    assert {one["label"] for one in found["pictures"]} == {"0", "1", "2"}
    json.dumps(found, allow_nan=False)


def test_an_attacked_set_tells_what_each_attack_leaves_at_each_strength(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    options = {"attacks": ["fgm", "square", "deepfool"], "strength": 0.4, "images": 30, "budget": "quick"}
    request = Asked(Subject(**SUBJECT), options, tmp_path, lambda _, done, of: steps.append((done, of)))
    found = attacking.attack_set(lambda *_: brought(), request)
    assert [(line["attack"], line["eps"]) for line in found["lines"]] == [
        *(("fgm", eps) for eps in (0.1, 0.2, 0.3, 0.4)),
        ("deepfool", None),
        *(("square", eps) for eps in (0.1, 0.2, 0.3, 0.4)),
    ]
    assert steps == [(done, 18) for done in range(1, 19)]
    rates = [line["right"]["rate"] for line in found["lines"][:4]]
    assert rates == sorted(rates, reverse=True)
    assert all(line["mean_linf"] <= line["eps"] + 1e-6 for line in found["lines"] if line["eps"])
    assert found["worst"]["right"]["hits"] == min(line["right"]["hits"] for line in found["lines"] if line["eps"])
    assert found["clean_defended"] is None
    assert all(
        (tmp_path / f"{one['stem']}-{what}.png").is_file() for one in found["examples"] for what in ("before", "change", "after")
    )
    json.dumps(found, allow_nan=False)


def test_one_image_is_shown_before_and_after_within_the_strength(tmp_path: Path) -> None:
    kept = Kept(lambda *_: brought())
    found = attacking.attack_one(kept, asked(tmp_path, attack="fgm", strength=0.1, image=5))
    assert found["linf"] <= 0.1 + 1e-6
    assert found["says_before"][0]["class"] == found["label"]
    assert found["before"]["width"] == found["after"]["height"] == 8
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("attack", ["cw", "deepfool", "patch"])
def test_one_image_gets_a_quick_look_of_a_slow_attack_and_a_set_all_of_it(tmp_path: Path, attack: str) -> None:
    found = attacking.attack_one(lambda *_: brought(), asked(tmp_path, attack=attack, strength=0.1, image=5))
    passes = ATTACKS[attack].look * (3 if attack == "deepfool" else 1)  # DeepFool takes the slopes of all classes
    assert 0 < found["gradients"] <= passes
    assert found["says_after"][0]["class"] != found["label"]
    options = {"attacks": [attack], "strength": 0.5, "images": 8, "budget": "quick"}
    *_, line = attacking.attack_set(lambda *_: brought(), asked(tmp_path, **options))["lines"]  # at the whole of the strength
    assert line["right"]["rate"] == 0


def test_what_cannot_be_asked_is_refused_beside_its_field(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="number of images") as refused:
        attacking.attack_one(lambda *_: brought(), asked(tmp_path, attack="fgm", strength=0.1, image=60))
    assert refused.value.field == "image"
    with pytest.raises(Refused, match="follows gradients") as refused:
        attacking.attack_one(lambda *_: brought(gradients=False), asked(tmp_path, attack="pgd", strength=0.1, image=0))
    assert refused.value.field == "attack"
    attacking.attack_one(lambda *_: brought(gradients=False), asked(tmp_path, attack="square", strength=0.1, image=0))
    with pytest.raises(Refused, match="without defences yet"):
        defending.armour_one(lambda *_: brought(), asked(tmp_path, attack="none", image=0, on=[], parameters={}))


def test_a_subject_is_opened_once_until_another_is_asked_for() -> None:
    opened: list[Subject] = []

    def bring(subject: Subject, progress: Progress) -> Brought:
        opened.append(subject)
        return brought()

    kept, other = Kept(bring), Subject(model="/other.onnx", data="/d.npz")
    first = kept(Subject(**SUBJECT), silent)
    assert kept(Subject(**SUBJECT), silent) is first
    kept(other, silent)
    kept(Subject(**SUBJECT), silent)
    assert opened == [Subject(**SUBJECT), other, Subject(**SUBJECT)]


def test_a_change_is_amplified_to_what_can_be_seen_and_none_stays_grey() -> None:
    change = np.zeros((4, 4, 1), np.float32)
    change[0, 0], change[1, 1] = 0.05, -0.025
    shown, times = amplified(change)
    assert times == pytest.approx(10)
    assert (shown.max(), shown[1, 1, 0], shown[3, 3, 0]) == (pytest.approx(1.0), pytest.approx(0.25), 0.5)
    assert amplified(np.zeros_like(change))[1] == 1.0
    assert for_page(np.zeros((2, 3, 3), np.float32))["channels"] == 3
    assert for_page(np.zeros((2, 3, 4), np.float32))["channels"] == 1
