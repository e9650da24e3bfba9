"""What the lines of the audit log say, and what they do not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from defences.defended_classifier import Decisions, Detection, Mode, Trace
from service.edge.exchange import Source
from service.errors import OverBudget
from service.observing import audit_events
from service.observing.audit_events import Decided, Told, Writer, audit_key, image_hashes
from tests.unit.service.audit_lines import read

NOON = datetime(2026, 11, 25, 12, 0, 0, 250_000, UTC)
SECRET = b"a secret that nobody knows"
IMAGES = np.linspace(0, 1, 3 * 12, dtype=np.float32).reshape(3, 2, 6, 1)
ALICE = Source("r-1", "alice", "/predict")


def writer(secret: bytes = SECRET) -> Writer:
    return Writer("0123456789abcdef", secret=secret, model="insects", model_version="0123456789ab", labels=("ant", "bee"))


def decisions(strip: Mode = "enforce") -> Decisions:
    """The second of three images is one that STRIP would refuse, and the reverse sigmoid blurs the others."""
    found = np.array([False, True, False])
    abstained = found if strip == "enforce" else np.zeros(3, bool)
    scores = np.array([0.512345, 0.000123, np.nan])
    trace = Trace(detections=(Detection("strip", strip, found, np.array([8, 96, 8]), scores, scores),))
    probabilities = np.full((3, 2), 0.314159, np.float32)
    return Decisions(probabilities, abstained, np.where(abstained, -1, 1), trace)


def lines(strip: Mode = "enforce", **options: Any) -> list[dict[str, Any]]:
    return read(writer(**options).lines(Decided(NOON, 7, ALICE, IMAGES, decisions(strip))))


def test_a_decision_is_a_line_an_image_with_what_was_asked_and_answered() -> None:
    first, second, third = lines()
    assert first == {
        "event": "decision",
        "time": "2026-11-25T12:00:00.250000Z",
        "sequence": 7,
        "schema": 1,
        "writer": "0123456789abcdef",
        "model": "insects",
        "model_version": "0123456789ab",
        "request_id": "r-1",
        "client": "alice",
        "route": "/predict",
        "row": 0,
        "rows": 3,
        "outcome": "answered",
        "label": "bee",
        "findings": [],
        "image_hash": image_hashes(IMAGES, audit_key(SECRET))[0],
        "mitigations": [],
        "techniques": [],
    }
    assert (second["outcome"], second["label"], second["row"], second["sequence"]) == ("abstained", None, 1, 8)
    assert second["findings"] == [{"defence": "strip", "mode": "enforce"}]
    assert second["mitigations"] == ["AML.M0015"]
    assert second["techniques"] == ["AML.T0043.004", "AML.T0018.000"]
    assert (third["outcome"], third["sequence"]) == ("answered", 9)


def test_a_finding_of_a_detector_that_only_watches_is_told_beside_the_answer() -> None:
    second = lines("monitor")[1]
    assert (second["outcome"], second["label"]) == ("answered", "bee")
    assert second["findings"] == [{"defence": "strip", "mode": "monitor"}]
    assert second["techniques"] == ["AML.T0043.004", "AML.T0018.000"]


def test_no_pixel_probability_score_model_call_or_secret_is_in_a_line() -> None:
    text = b"".join(writer().lines(Decided(NOON, 0, ALICE, IMAGES, decisions()))).decode()
    for told in ("0.31", "0.51", "0.0001", SECRET.decode(), SECRET.hex(), audit_key(SECRET).hex()):
        assert told not in text
    assert not {"probabilities", "scores", "calls", "images", "pixels"} & set(lines()[0])


def test_equal_images_have_equal_hashes_under_one_secret_on_every_replica_and_others_under_another() -> None:
    hashes = [line["image_hash"] for line in lines()]
    assert len(set(hashes)) == 3
    assert [line["image_hash"] for line in lines(secret=SECRET)] == hashes
    assert not {line["image_hash"] for line in lines(secret=SECRET + b"0")} & set(hashes)


def test_images_that_round_to_one_picture_share_a_hash_and_one_level_makes_another() -> None:
    key = audit_key(SECRET)
    picture = np.full((1, 2, 6, 1), 100 / 255, np.float32)
    darker = picture.copy()
    darker[0, 1, 5, 0] = 99 / 255
    assert image_hashes(picture + np.float32(0.001), key) == image_hashes(picture, key)
    assert image_hashes(darker, key) != image_hashes(picture, key)


@pytest.mark.parametrize("secret", [b"s" * 16, b"s" * 64])
def test_the_key_of_the_hashes_is_not_the_secret(secret: bytes) -> None:
    assert len(audit_key(secret)) == 32
    assert audit_key(secret) not in (secret[:32], secret)


def test_a_start_says_what_is_in_force_and_a_refusal_what_was_turned_away_how_often() -> None:
    in_force = audit_events.started("1.0", [("total_variation", "enforce"), ("strip", "monitor")], secret_is_random=False)
    turned_away = audit_events.refusal(Source("r-2", "", "/predict/npy"), OverBudget.code, OverBudget.status, 3)
    records = [Told(NOON, 0, "started", in_force), Told(NOON, 1, "refusal", turned_away), Told(NOON, 2, "stopped", {"lost": 0})]
    start, refusal, _ = read(line for record in records for line in writer().lines(record))
    assert [(each["defence"], each["mode"], each["mitigations"]) for each in start["defences"]] == [
        ("total_variation", "enforce", ["AML.M0010"]),
        ("strip", "monitor", ["AML.M0015"]),
    ]
    assert (refusal["code"], refusal["status"], refusal["count"], refusal["client"]) == ("budget_spent", 429, 3, None)
    assert refusal["mitigations"] == ["AML.M0004"]


def test_records_that_are_written_together_have_the_lines_each_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Decided | Told] = [
        Decided(NOON, 0, ALICE, IMAGES, decisions()),
        Told(NOON, 3, "stopped", {"lost": 0}),
        Decided(NOON, 4, ALICE, IMAGES[::-1], decisions()),
    ]
    alone = [line for record in records for line in writer().lines(record)]
    assert list(writer().lines(*records)) == alone
    monkeypatch.setattr(audit_events, "_TOGETHER_BYTES", 1)
    assert list(writer().lines(*records)) == alone
