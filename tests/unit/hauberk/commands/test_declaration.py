"""What the user says about a model: options that agree make a preparation, options that do not are one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from hauberk.commands.declaration import Declaration
from hauberk.main import app_for
from models.errors import InvalidInput
from models.preparation import PRESETS, Preparation


def prepared(of: int = 3, **options: Any) -> Preparation:
    return Declaration(**options).preparation(channels=of, layout="nhwc", dtype="float32")


def test_what_is_said_becomes_the_preparation_and_what_is_not_stays_usual() -> None:
    assert prepared() == Preparation()
    assert prepared(input_range="-1,1", layout="nchw") == Preparation.of_range(-1, 1, layout="nchw")
    assert prepared(mean="0.5,0.4,0.3", std="0.2") == Preparation.of_statistics((0.5, 0.4, 0.3), 0.2)
    assert prepared(mean="0.5", channels="bgr") == Preparation.of_statistics(0.5, 1, channels="bgr")
    assert prepared(std="0.25") == Preparation.of_statistics(0, 0.25)
    assert prepared(preset="caffe", channels="bgr") == PRESETS["caffe"]
    assert prepared(of=1, preset="tf") == Preparation.of_range(-1, 1)


def test_of_whole_numbers_the_usual_range_is_that_of_bytes() -> None:
    declared = Declaration().preparation(channels=1, layout="nchw", dtype="uint8")
    assert declared == Preparation.of_range(0, 255, layout="nchw", dtype="uint8")


CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "a range and a mean": ({"input_range": "0,1", "mean": "0.5"}, "got --input-range and --mean; say one of them"),
    "a preset and a deviation": ({"preset": "tf", "std": "0.5"}, "got --std and --preset"),
    "a preset and the other order": (
        {"preset": "caffe", "channels": "rgb"},
        "expected --channels bgr with --preset caffe, got rgb",
    ),
    "a mean of bytes": ({"mean": "123.68,116.779,103.939"}, "from 0 to 1 .* divide values of bytes by 255"),
    "a mean in words": ({"mean": "half"}, "expected --mean with numbers from 0 to 1"),
    "a mean that is none": ({"mean": "nan"}, "expected --mean with numbers from 0 to 1"),
    "no deviation": ({"mean": "0.5", "std": "0.2,0,0.2"}, "expected --std with deviations above 0"),
    "three and two": ({"mean": "0.5,0.4,0.3", "std": "0.2,0.3"}, "as many values in --mean as in --std, or one, got 3 and 2"),
    "values of two channels": ({"mean": "0.5,0.4"}, "one for each of 3 channels, got 2"),
    "a preset of colours": (
        {"of": 1, "preset": "torch"},
        "expected --preset torch of one value .* 1 channels, got 3",
    ),
    "BGR of grey": ({"of": 1, "channels": "bgr"}, "expected images of 3 channels with --channels bgr, got 1"),
    "a range beyond numbers": ({"input_range": "-1e308,1e308"}, "expected --input-range LOW,HIGH"),
}


@pytest.mark.parametrize(("options", "message"), CONFLICTS.values(), ids=CONFLICTS)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        prepared(**options)


def test_a_declaration_allows_what_it_does_not_speak_of() -> None:
    assert Declaration().allows(PRESETS["caffe"])
    assert Declaration(channels="bgr").allows(PRESETS["caffe"])
    assert not Declaration(channels="rgb").allows(PRESETS["caffe"])
    assert not Declaration(input_range="0,255").allows(PRESETS["caffe"])
    assert not Declaration(preset="torch").allows(Preparation(channels="bgr"))
    assert Declaration(input_range="0,255").allows(Preparation.of_range(0, 255, channels="bgr"))
    assert not Declaration(layout="nhwc").allows(Preparation(layout="nchw"))


def test_every_command_that_is_given_a_model_takes_the_same_options_with_the_same_help() -> None:
    group: Any = typer.main.get_command(app_for(()))
    fields = vars(Declaration())
    told = {
        name: {one.name: one.help for one in group.commands[name].params if one.name in fields}
        for name in ("calibrate", "scan", "train")
    }
    assert list(told["calibrate"]) == list(fields)
    assert all(told["calibrate"].values())
    assert told["scan"] == told["calibrate"]
    assert told["train"] == {name: text for name, text in told["calibrate"].items() if name != "labels"}
