"""Finished work of plans: found again, and removed when it has not been used for long."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.kept_places import place_of, use_place


def test_a_plan_has_a_place_of_its_own_whatever_the_order_of_its_members(tmp_path: Path) -> None:
    assert place_of(tmp_path, {"a": 1, "b": 2}) == place_of(tmp_path, {"b": 2, "a": 1}) != place_of(tmp_path, {"a": 1, "b": 3})


def test_the_places_used_last_stay_and_nothing_else_is_touched(tmp_path: Path) -> None:
    places = [place_of(tmp_path / "work", {"plan": number}) for number in range(5)]
    for when, place in enumerate(places):
        use_place(place, keep=10)
        (place / "result").write_text("found")
        os.utime(place, (when, when))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (tmp_path / "work" / "0123456789ab").symlink_to(elsewhere)
    (tmp_path / "work" / "notes").mkdir()
    (tmp_path / "work" / "ba9876543210").write_text("a file")
    use_place(places[0], keep=2)
    assert [place.is_dir() for place in places] == [True, False, False, True, True]
    assert (places[0] / "result").read_text() == "found"
    assert (elsewhere / "mine").exists()
    assert {path.name for path in (tmp_path / "work").iterdir()} >= {"0123456789ab", "notes", "ba9876543210"}
