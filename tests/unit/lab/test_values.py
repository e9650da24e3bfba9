"""The values of the lab: subjects, choices, charts, sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.charts import robust_accuracy
from lab.errors import Refused
from lab.limits import LabLimits
from lab.offered import ATTACKS, BUDGETS, PARAMETERS, Armour, AttackChoice, AttackedSet
from lab.rendering import FILES, Pages
from lab.sentences import FIELDS, field_of, sentence
from lab.state import State
from lab.subject import DECLARED, Subject
from lab.work.attacks import BUILT, LOOKS


def test_a_subject_says_the_command_line_that_does_the_same() -> None:
    subject = Subject(model="/m/my model.keras", data="/d/pictures.zip", resize="32x32", declared={"input_range": "-1,1"})
    line = subject.command("calibrate", shown=lambda path: Path(path).name, detectors="strip", out="bundles/mine")
    assert line == (
        "unzip -d pictures pictures.zip && hauberk calibrate '--classifier=my model.keras' --data=pictures --split=test --resize=32x32 "
        "--input-range=-1,1 --detectors=strip --out=bundles/mine"
    )
    assert Subject.from_form(subject.as_json()) == subject


def test_a_bundle_is_evaluated_and_calibrated_again_by_the_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"")
    subject = Subject(model=str(tmp_path), data="/d.npz", declared={"preset": "tf"})
    assert subject.is_bundle
    assert subject.model_file == str(tmp_path / "model.onnx")
    line = subject.command("evaluate", shown=str)
    assert "--bundle=" in line
    assert "--preset" not in line
    assert not Subject(model="/m.onnx", data="/d.npz").is_bundle


def test_a_bundle_that_was_uploaded_as_a_zip_is_one_once_a_worker_has_unpacked_it(tmp_path: Path) -> None:
    subject = Subject(model=str(tmp_path / "bundle.zip"), data=str(tmp_path / "d.npz"))
    assert (subject.is_bundle, subject.model_file) == (False, subject.model)
    inside = tmp_path / "bundle.zip.unpacked" / "bundle"
    inside.mkdir(parents=True)
    assert not subject.is_bundle
    for name in ("card.json", "model.keras"):
        (inside / name).write_bytes(b"")
    assert subject.bundle == inside
    assert subject.model_file == str(inside / "model.keras")
    line = subject.command("evaluate", shown=lambda path: str(Path(path).relative_to(tmp_path)))
    assert line.startswith("unzip -n bundle.zip && hauberk evaluate --bundle=bundle.zip.unpacked/bundle ")


def test_every_field_of_the_form_is_an_option_that_calibrate_has() -> None:
    assert set(DECLARED) - {"output"} <= set(FIELDS)
    page = (FILES / "read.html").read_text()
    assert all(f'"{name}"' in page for name in FIELDS)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"attack": "other", "strength": 0.1, "image": 0}, "attack"),
        ({"attack": "fgm", "strength": 0, "image": 0}, "strength"),
        ({"attack": "fgm", "strength": "nan", "image": 0}, "strength"),
        ({"attack": "fgm", "strength": 9, "image": 0}, "strength"),
        ({"attack": "fgm", "strength": 0.1, "image": -1}, "image"),
        ({"attack": "fgm", "strength": 0.1, "image": 0.5}, "image"),
        ({"attack": "fgm", "strength": 0.1, "image": 0, "budget": "all"}, "budget"),
        ({"attack": ["fgm"], "strength": 0.1, "image": 0}, "attack"),
    ],
)
def test_an_attack_that_cannot_be_is_refused_beside_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        AttackChoice.from_form(given)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"attacks": []}, "attacks"),
        ({"attacks": ["rm"]}, "attacks"),
        ({"attacks": "fgm", "images": 0}, "images"),
        ({"attacks": ["fgm"], "images": 501}, "images"),
        ({"attacks": ["fgm"], "images": "many"}, "images"),
        ({"attacks": {"fgm": 1}}, "attacks"),
    ],
)
def test_a_set_that_cannot_be_is_refused_beside_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        AttackedSet.from_form({"strength": 0.1, "images": 10, "budget": "quick", **given})
    assert refused.value.field == field


def test_a_set_is_stored_as_it_was_chosen() -> None:
    chosen = AttackedSet(attacks=("fgm", "square"), strength=0.2, images=50, budget="thorough")
    assert AttackedSet.from_form(chosen.as_json()) == chosen
    assert chosen.radii == (0.05, 0.1, 0.15, 0.2)


@pytest.mark.parametrize(
    "given", [{"on": "strip"}, {"on": [1]}, {"parameters": {"strip.stages": 1}}, {"parameters": {"strip.threshold": 2}}]
)
def test_an_armour_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        Armour.from_form(given)
    assert Armour.from_form({"on": ["strip"], "parameters": {"strip.threshold": "0.2"}}).parameters == {"strip.threshold": 0.2}


def test_every_offered_attack_is_built_with_every_budget() -> None:
    assert set(BUILT) == set(ATTACKS)
    for build in BUILT.values():
        for effort in BUDGETS.values():
            assert callable(build(0.1, effort, (28, 28, 1)))
    assert all(low < high for _, low, high in PARAMETERS.values())


def test_a_quick_look_is_of_attacks_that_are_slow_and_says_its_steps() -> None:
    assert set(LOOKS) == {name for name, one in ATTACKS.items() if one.look}
    for name, build in LOOKS.items():
        look = build(0.2, BUDGETS["quick"], (28, 28, 1))
        steps = look.iterations * getattr(look, "locations", 1)  # type: ignore[attr-defined]  # of these attacks
        assert steps == ATTACKS[name].look
    assert "a quick look of 8 steps, a set is attacked in full" in ATTACKS["deepfool"].note_of_one
    assert ATTACKS["pgd"].note_of_one == ATTACKS["pgd"].note


def share(rate: float) -> dict[str, float]:
    return {"rate": rate, "low": max(0.0, rate - 0.1), "high": min(1.0, rate + 0.1)}


def test_a_chart_begins_without_an_attack_and_falls_with_its_lines() -> None:
    lines = [{"attack": "fgm", "eps": eps, "right": share(1 - eps), "defended": {"right": share(0.9)}} for eps in (0.1, 0.2)]
    result = {"clean": share(1.0), "clean_defended": share(0.95), "lines": [*lines, {"attack": "cw", "eps": None}]}
    chart = robust_accuracy(result, {"fgm": "FGM"})
    assert chart is not None
    assert [(line.name, line.dashed, len(line.dots)) for line in chart.lines] == [("FGM", False, 3), ("FGM, defended", True, 3)]
    heights = [y for _, y, _ in chart.lines[0].dots]
    assert heights == sorted(heights)  # down the page
    assert chart.lines[0].dots[0][:2] == (chart.left, chart.top)
    assert robust_accuracy({**result, "lines": [{"attack": "cw", "eps": None}]}, {}) is None


def test_sentences_name_the_fields_of_the_page_in_the_place_of_options() -> None:
    told = {"sentence": "pictures of two sizes; say --resize HEIGHTxWIDTH", "field": "data"}
    assert sentence(told["sentence"]) == "Pictures of two sizes; say “resize pictures to” HEIGHTxWIDTH."
    assert sentence("say --input-range=0,255") == "Say “values of black and white” 0,255."
    assert sentence("with hauberk calibrate --labels") == "With “class names”."
    assert (field_of(told), field_of({"sentence": "no", "field": "data"}), sentence("")) == ("resize", "data", "")


def test_texts_from_outside_are_escaped_and_printable_in_pages() -> None:
    page = Pages().render("message.html", title="<b>\x1b[2J", sentence="a\u202eb", subject=None, step="")
    assert "&lt;b&gt;\\x1b[2J" in page
    assert "\\u202e" in page


def test_so_many_sessions_and_subjects_and_no_more(tmp_path: Path) -> None:
    state = State(tmp_path / "state", limits=LabLimits(sessions=1, subjects=1))
    session = state.session(state.begin_session()) or ""
    with pytest.raises(Refused, match="too many sessions"):
        state.begin_session()
    subject = Subject(model="/m.onnx", data="/d.npz")
    state.add_subject(session, "one", subject)
    with pytest.raises(Refused, match="at most 1 classifiers"):
        state.add_subject(session, "two", subject)
    assert state.session("another") is None
    state.close()
