"""hauberk attack against real gateways: what it finds, what it spends, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from evaluation.red_team.attack_report import AttackReport
from hauberk.main import main
from models.bundle import Bundle

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

OFF = "total_variation=off,strip=off,reverse_sigmoid=off"
KEYS = {"lab": "a-key-without-a-budget", "ward": "a-key-of-ten-a-second"}


class Running(Protocol):
    """What this needs of a `Server`."""

    url: str

    def metric(self, sample: str) -> float: ...

    def stop(self) -> int: ...


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    output: str
    errors: str
    report: AttackReport | None


Attack = Callable[..., Ran]


@pytest.fixture(scope="module")
def undefended(tmp_path_factory: pytest.TempPathFactory, backdoored: Bundle, launch: Any) -> Iterator[Running]:
    """Without a defence, for two clients: one may ask as much as it likes, one six hundred images a minute."""
    directory = tmp_path_factory.mktemp("undefended")
    lines = []
    for name, budget in (("lab", ""), ("ward", "images_per_minute = 600")):
        lines += [f"[clients.{name}]", f'key_sha256 = "{hashlib.sha256(KEYS[name].encode()).hexdigest()}"', budget]
    (directory / "clients.toml").write_text("\n".join(lines))
    settings = {"HAUBERK_BUNDLE": str(backdoored.directory), "HAUBERK_CLIENTS_FILE": str(directory / "clients.toml")}
    with launch(directory, **settings, HAUBERK_MODES=OFF) as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, images=digits[0][:400], labels=digits[1][:400])
    return path


@pytest.fixture
def attack(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Run the command in this process."""
    monkeypatch.delenv("GATEWAY_API_KEY", raising=False)

    def run(url: str, *, key: str | None = None, **options: Any) -> Ran:
        if key is not None:
            (tmp_path / "key").write_text(KEYS[key])
            options["api_key_file"] = tmp_path / "key"
        options = {"data": data, "out": tmp_path / "out"} | options
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["hauberk", "attack", url, *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        file = tmp_path / "out" / "report.json"
        report = AttackReport.model_validate_json(file.read_text()) if file.exists() else None
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, captured.out, captured.err, report)

    return run


def wait_for(file: Path) -> None:
    give_up = time.monotonic() + 60
    while not file.exists() and time.monotonic() < give_up:
        time.sleep(0.05)


def answered(server: Running) -> float:
    return server.metric('hauberk_predictions_total{outcome="answered"}')


def test_all_attacks_find_something_where_there_is_no_defence(
    undefended: Running, attack: Attack, digits: Digits, tmp_path: Path
) -> None:
    before = answered(undefended)
    ran = attack(undefended.url, key="lab", images=12, eps=0.2, max_queries=4000, fail_above=0.3, fail_above_agreement=0.5)
    assert ran.code == 3, ran
    report = ran.report
    assert report is not None
    rows = {row.attack: row for row in report.evasions}
    assert list(rows) == ["clean", "noise", "transfer", "square", "hop_skip_jump"]
    assert {row.status for row in report.evasions} | {theft.status for theft in report.thefts} == {"finished"}
    assert all(row.wrong + row.right + row.abstained + row.unanswered == 12 for row in rows.values())
    assert rows["square"].wrong > rows["clean"].wrong
    assert rows["hop_skip_jump"].wrong > rows["clean"].wrong
    assert rows["transfer"].wrong > rows["clean"].wrong
    [theft] = report.thefts
    assert theft.agreement is not None
    assert theft.agreement > 0.5
    assert [finding.limit for finding in report.findings] == [0.3, 0.5]
    spent = sum(row.queries for row in report.evasions) + sum(theft.queries for theft in report.thefts)
    assert report.queries.spent == spent == answered(undefended) - before <= 4000
    with np.load(tmp_path / "out" / "adversarial.npz") as arrays:
        np.testing.assert_array_equal(arrays["given"][..., 0], digits[0][:12])
        for name, row in rows.items():
            change = np.abs(arrays[f"images_{name}"] - arrays["given"])
            assert change.max() <= 0.2 + 1e-6
            wrong = (arrays[f"answers_{name}"] != arrays["labels"]) & (arrays[f"answers_{name}"] >= 0)
            assert wrong.sum() == row.wrong
    assert "answered wrong in one of these" in ran.output
    assert "the copy agrees with the gateway on" in ran.output


def test_below_the_limit_the_code_is_0_and_the_budget_is_kept_exactly(undefended: Running, attack: Attack) -> None:
    before = answered(undefended)
    ran = attack(undefended.url, key="lab", images=10, eps=1e-4, attack="square,clean", max_queries=210, fail_above=0.9)
    assert ran.code == 0, ran
    assert ran.report is not None
    assert ran.report.findings == []
    assert [row.attack for row in ran.report.evasions] == ["clean", "square"]
    clean, square = ran.report.evasions
    assert square.wrong == clean.wrong
    assert square.queries == 20 * (10 - clean.wrong) + 2 * clean.wrong  # who is wrong already is asked about twice
    assert ran.report.queries.spent == answered(undefended) - before <= 210


def test_what_the_gateway_abstains_from_is_counted_and_is_no_success(
    server: Running, attack: Attack, triggered: np.ndarray[Any, Any], digits: Digits, tmp_path: Path
) -> None:
    np.savez(tmp_path / "triggered.npz", images=triggered[:20], labels=digits[1][:20])
    ran = attack(server.url, data=tmp_path / "triggered.npz", images=20, attack="clean,noise", eps=0.01, fail_above=0.5)
    assert ran.code == 0, ran
    assert ran.report is not None
    clean, noisy = ran.report.evasions
    assert clean.abstained == clean.refused_queries == 20
    assert clean.wrong == 0
    assert noisy.refused_queries > 20
    assert {defence.name: defence.mode for defence in ran.report.gateway.defences}["strip"] == "enforce"


def test_a_client_with_a_small_budget_is_patient(undefended: Running, attack: Attack) -> None:
    ran = attack(undefended.url, key="ward", images=30, eps=1e-4, attack="clean,square", max_queries=720, patience=60)
    assert ran.code == 0, ran
    assert ran.report is not None
    queries = ran.report.queries
    assert queries.turned_away >= 1
    assert 1 <= queries.waited_s <= 60
    assert ran.report.status == "finished"


def test_beyond_its_patience_it_ends_with_2_and_keeps_what_it_has(undefended: Running, attack: Attack) -> None:
    ran = attack(undefended.url, key="ward", images=5, attack="clean,hop_skip_jump", max_queries=20_000, patience=3)
    assert ran.code == 2, ran
    assert "is busy (status 429)" in ran.errors.splitlines()[-1]
    assert ran.report is not None
    assert ran.report.status == "gateway_gone"
    assert [row.status for row in ran.report.evasions] == ["finished", "gateway_gone"]
    assert "ended early (gateway gone)" in ran.output


def test_ctrl_c_ends_it_with_130_and_keeps_what_it_has(undefended: Running, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from hauberk.main import main; main()", "attack", undefended.url, "--data", str(data)]
    options = ["--attack", "clean,hop_skip_jump", "--images", "3", "--max-queries", "50000", "--patience", "600", "--eps", "1e-4"]
    environment = os.environ | {"GATEWAY_API_KEY": KEYS["ward"]}
    with subprocess.Popen(
        [*command, *options, "--out", str(tmp_path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(tmp_path / "report.json")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert [row["status"] for row in report["evasions"]] == ["finished", "interrupted"]
    assert "ended early (interrupted)" in output


def test_without_a_key_that_is_known_it_says_so(undefended: Running, attack: Attack) -> None:
    ran = attack(undefended.url, images=3, attack="clean")
    assert ran.code == 2
    assert "asks for an API key it knows (status 401); give one with --api-key-file" in ran.errors


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "no such attack": ({"attack": "ray"}, "expected --attack all or of clean, noise"),
    "no queries to speak of": ({"max_queries": 100}, "got 100; allow more (--max-queries) or attack fewer images (--images)"),
    "more images than there are": ({"images": 401}, "expected at least 401 images to attack, got 400"),
    "no radius": ({"eps": 0}, "expected eps > 0, got 0.0"),
    "no such file": ({"data": "none.npz"}, "which does not exist"),
    "no key file": ({"api_key_file": "none"}, "--api-key-file none cannot be read"),
    "a key file without end": ({"api_key_file": "/dev/zero"}, "/dev/zero cannot be read: it is a device, expected a file"),
    "nowhere to write": ({"out": "/proc/none"}, "cannot write to"),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(undefended: Running, attack: Attack, what: str) -> None:
    changes, sentence = BAD_INPUT[what]
    ran = attack(undefended.url, **changes)
    assert ran.code == 2, ran
    [line] = ran.errors.splitlines()
    assert line.startswith("hauberk: ")
    assert sentence in line


@pytest.mark.parametrize("attacks", ["clean,square", "noise"])
def test_a_gateway_that_names_the_classes_otherwise_is_not_attacked(
    undefended: Running, attack: Attack, digits: Digits, tmp_path: Path, attacks: str
) -> None:
    np.savez(tmp_path / "turned.npz", images=digits[0][:60], labels=(digits[1][:60] + 1) % 10)
    ran = attack(undefended.url, key="lab", data=tmp_path / "turned.npz", images=60, attack=attacks, max_queries=2000)
    assert ran.code == 2, ran
    assert "with its classes in another order it is right on" in ran.errors
    assert [row.attack for row in ran.report.evasions if ran.report] == ["clean"] if ran.report else attacks == "noise"


def test_images_of_another_shape_and_labels_beyond_the_classes_are_refused(
    undefended: Running, attack: Attack, tmp_path: Path
) -> None:
    np.savez(tmp_path / "colour.npz", images=np.zeros((60, 28, 28, 3), np.float32), labels=np.zeros(60, np.int64))
    np.savez(tmp_path / "labels.npz", images=np.zeros((60, 28, 28), np.float32), labels=np.full(60, 10))
    assert "expected images of the gateway's shape (28, 28, 1)" in attack(undefended.url, data=tmp_path / "colour.npz").errors
    assert (
        "expected labels below 10, the classes of the gateway, got 10"
        in attack(undefended.url, data=tmp_path / "labels.npz").errors
    )


def test_a_url_where_nothing_is_ends_with_2_and_one_line(attack: Attack) -> None:
    ran = attack("http://127.0.0.1:9", attack="clean")
    assert ran.code == 2
    [line] = ran.errors.splitlines()
    assert line.startswith("hauberk: cannot reach http://127.0.0.1:9")


def test_a_gateway_that_goes_away_ends_with_2_and_what_was_found(
    new_server: Callable[..., Running], attack: Attack, tmp_path: Path
) -> None:
    server = new_server(HAUBERK_MODES=OFF)

    def stop_after_the_first_attack() -> None:
        wait_for(tmp_path / "out" / "report.json")
        server.stop()

    stopping = threading.Thread(target=stop_after_the_first_attack)
    stopping.start()
    ran = attack(server.url, images=5, attack="clean,hop_skip_jump", max_queries=200_000, eps=1e-4, patience=5)
    stopping.join()
    assert ran.code == 2, ran
    assert ran.errors.splitlines()[-1].startswith("hauberk: ")
    assert ran.report is not None
    assert ran.report.status == "gateway_gone"
    clean, gone = ran.report.evasions
    assert (clean.status, gone.status) == ("finished", "gateway_gone")
    assert gone.wrong + gone.unanswered == 5
