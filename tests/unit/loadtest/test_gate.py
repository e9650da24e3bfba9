"""The verdict of a load test: what is measured, what is judged, and the exit code."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from loadtest import gate, shapes
from loadtest.gate import FINE, MISSED, Line, judge, read_limits, saturation, verdict
from loadtest.samples import Sample, abstained_ratio, percentile_ms


def answered(at: float, seconds: float = 0.01, kind: str = "clean", *, images: int = 1, abstained: int = 0) -> Sample:
    return Sample(kind, at, seconds, 200, due=True, images=images, abstained=abstained)


def refused(at: float, status: int, *, told_when: bool = True, kind: str = "clean") -> Sample:
    return Sample(kind, at, 0.01, status, due=False, told_when=told_when, images=1)


def every(gap: float, first: float, last: float, seconds: float = 0.01) -> list[Sample]:
    return [answered(first + i * gap, seconds) for i in range(round((last - first) / gap))]


def measured(samples: list[Sample], shape: str = "steady", rate: float = 10.0, seconds: float = 60.0) -> dict[str, Line]:
    lines = judge(samples, read_limits(gate.SHIPPED), shape=shape, rate=rate, seconds=seconds)
    return {line.what: line for line in lines}


def test_the_limits_that_ship_are_ones_that_can_be_read() -> None:
    assert set(read_limits(gate.SHIPPED)) == {"answers", "abstention", "bad_input", "soak", "spike"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[answers]\np99_ms = 'fast'", "expected answers.p99_ms in"),
        ("[answers]\np99_ms = true", "to be a number, 0 or more, got True"),
        ("[answers]\np99_ms = -1", "to be a number, 0 or more, got -1"),
        ("[answers]\np98_ms = 1", "got p98_ms"),
        ("[latency]\np99_ms = 1", "expected sections abstention, answers"),
        ("answers = 1", "expected sections"),
        ("[answers", "cannot be read"),
    ],
)
def test_what_is_no_limit_is_said_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_limits(path)


def test_a_missing_file_of_limits_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_limits(tmp_path / "none.toml")


def test_percentiles_are_nearest_ranks_and_nothing_has_none() -> None:
    samples = [answered(0, seconds=i / 1000) for i in range(1, 101)]
    assert [percentile_ms(samples, percent) for percent in (0, 50, 99, 100)] == [1, 50, 99, 100]
    assert math.isnan(percentile_ms([], 50))


def test_everything_in_order_is_met() -> None:
    lines = measured(
        [*every(0.1, 0, 60), answered(5, kind="triggered", abstained=1), Sample("malformed", 5, 0.01, 422, due=True)]
    )
    assert all(line.met for line in lines.values())
    code, text = verdict(list(lines.values()))
    assert code == FINE
    assert text.endswith("verdict: met")


def test_slow_answers_failures_and_refusals_of_clean_images_are_each_told() -> None:
    samples = [*every(0.1, 0, 60, seconds=2.0), *(refused(10 + i, 503) for i in range(9)), answered(20, images=99, abstained=99)]
    lines = measured(samples)
    assert {name for name, line in lines.items() if not line.met} == {
        "answers.p50_ms",
        "answers.p99_ms",
        "answers.error_ratio",
        "abstention.clean_ratio",
    }
    code, text = verdict(list(lines.values()))
    assert code == MISSED
    assert "verdict: missed answers.p50_ms" in text


def test_bad_input_that_is_let_in_is_an_error_of_its_own_kind() -> None:
    lines = measured(
        [*every(0.1, 0, 60), Sample("malformed", 9, 0.01, 200, due=False), Sample("oversize", 9, 0.01, 413, due=True)]
    )
    assert lines["bad_input.error_ratio"].measured == 0.5
    assert lines["answers.error_ratio"].met


def test_the_warm_up_is_not_judged() -> None:
    lines = measured([*every(0.1, shapes.WARM_UP_S, 60), *(refused(1, 500) for _ in range(100))])
    assert lines["answers.error_ratio"].measured == 0


def test_nothing_measured_is_never_met() -> None:
    assert not measured([])["answers.p99_ms"].met
    assert verdict([])[0] == MISSED


def test_refused_images_are_counted_by_image_and_only_of_answers() -> None:
    assert abstained_ratio([answered(0, images=8, abstained=2), answered(0, images=2), refused(0, 503)]) == 0.2
    assert math.isnan(abstained_ratio([refused(0, 503)]))


def test_a_soak_compares_its_end_with_its_beginning() -> None:
    steady = every(0.1, 0, 600)
    assert measured(steady, "soak", seconds=600)["soak.p99_growth"].measured == pytest.approx(1)
    slower = [answered(s.intended_s, seconds=0.01 + s.intended_s / 60_000) for s in steady]
    assert not measured(slower, "soak", seconds=600)["soak.p99_growth"].met
    assert "soak.p99_growth" not in measured(steady)


def test_in_a_spike_who_is_told_when_to_come_again_is_not_lost_and_what_follows_has_to_be_calm() -> None:
    spike = [refused(26 + i / 10, 503) for i in range(100)]
    calm = [*every(0.1, 0, 24), *every(0.1, 36, 60)]
    lines = measured([*calm, *spike], "spike")
    assert lines["spike.lost_ratio"].met
    assert lines["answers.error_ratio"].measured == 0
    assert not measured([*calm, *spike, refused(30, 503, told_when=False)], "spike")["spike.lost_ratio"].met
    assert not measured([*calm, *spike, *(refused(55, 503) for _ in range(9))], "spike")["answers.error_ratio"].met


def test_a_ramp_ends_where_the_first_step_misses_a_limit() -> None:
    samples = [s for s in every(0.05, 0, 80) if s.intended_s < 50] + every(0.05, 50, 80, seconds=9.0)
    highest, table = saturation(samples, read_limits(gate.SHIPPED), rate=80, seconds=80)
    assert highest == 50
    assert [line.split()[-1] for line in table.splitlines()[1:]] == ["yes"] * 5 + ["no"] * 3
    assert saturation([], read_limits(gate.SHIPPED), rate=80, seconds=80)[0] == 0


@pytest.mark.parametrize("shape", shapes.NAMES)
def test_the_stretches_of_a_shape_cover_its_time_and_end_it(shape: str) -> None:
    stretches = shapes.parts(shape, 80, 40)
    assert stretches[0].first_s == 0
    assert stretches[-1].last_s == 40
    assert all(one.last_s == next_.first_s for one, next_ in itertools.pairwise(stretches))
    assert shapes.users_at(stretches, 0) == round(stretches[0].rate)
    assert shapes.users_at(stretches, 40) is None
    assert max(part.rate for part in stretches) == (320 if shape == "spike" else 80)


def test_an_unknown_shape_is_said() -> None:
    with pytest.raises(ValueError, match="expected a shape of steady"):
        shapes.parts("flat", 1, 60)
