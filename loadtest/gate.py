"""The verdict: measurements beside the limits of a file, and an exit code."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest import shapes
from loadtest.samples import BAD_INPUT, Sample, abstained_ratio, between, in_good_faith, percentile_ms, ratio

SHIPPED = Path(__file__).parent / "slo.toml"
FINE, BAD_LIMITS, MISSED = 0, 2, 3
_KNOWN = {
    "answers": {"p50_ms", "p99_ms", "error_ratio"},
    "abstention": {"clean_ratio"},
    "bad_input": {"error_ratio"},
    "soak": {"p99_growth"},
    "spike": {"lost_ratio"},
}

Limits = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Line:
    """One limit and its measurement. NaN, without samples, never meets a limit."""

    what: str
    limit: float
    measured: float

    @property
    def met(self) -> bool:
        """Whether the measurement is at most the limit."""
        return self.measured <= self.limit


def read_limits(path: Path) -> Limits:
    """The limits in a TOML file, by section and name. Raises: ValueError: an unreadable file, an unknown name, a wrong value."""
    try:
        limits = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as failure:
        raise ValueError(f"the limits in {path} cannot be read: {failure}") from failure
    for section, values in limits.items():
        if section not in _KNOWN or not isinstance(values, dict):
            raise ValueError(f"expected sections {', '.join(sorted(_KNOWN))} in {path}, got {section}")
        for name, value in values.items():
            if name not in _KNOWN[section]:
                raise ValueError(f"expected {', '.join(sorted(_KNOWN[section]))} under [{section}] in {path}, got {name}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"expected {section}.{name} in {path} to be a number, 0 or more, got {value!r}")
    return limits


def judge(samples: Sequence[Sample], limits: Limits, *, shape: str, rate: float, seconds: float) -> list[Line]:
    """Every limit that applies to the shape, with its measurement. Left out are samples of the warm-up and, with the shape
    "spike", those of the spike and of the recovery after it: `spike.lost_ratio` alone measures the spike.
    """
    calm = between(samples, shapes.WARM_UP_S, seconds)
    if shape == "spike":
        _, spike, _ = shapes.parts(shape, rate, seconds)
        recovered = spike.last_s + (seconds - spike.last_s) / 2
        calm = [*between(samples, shapes.WARM_UP_S, spike.first_s), *between(samples, recovered, seconds)]
    measures = _measures(calm)
    if shape == "soak":
        sixth = seconds / 6
        first, last = between(calm, 0, sixth), between(calm, seconds - sixth, seconds)
        measures["soak", "p99_growth"] = lambda: _p99(last) / _p99(first)
    if shape == "spike":
        during = in_good_faith(between(samples, spike.first_s, spike.last_s))
        measures["spike", "lost_ratio"] = lambda: ratio(during, lambda sample: sample.lost)
    return [
        Line(f"{section}.{name}", value, measures[section, name]())
        for section, values in limits.items()
        for name, value in values.items()
        if (section, name) in measures
    ]


def _measures(samples: Sequence[Sample]) -> dict[tuple[str, str], Callable[[], float]]:
    answers = in_good_faith(samples)
    bad = [sample for sample in samples if sample.kind in BAD_INPUT]
    found: dict[tuple[str, str], Callable[[], float]] = {
        ("answers", "p50_ms"): lambda: percentile_ms(answers, 50),
        ("answers", "p99_ms"): lambda: percentile_ms(answers, 99),
        ("answers", "error_ratio"): lambda: ratio(answers, lambda sample: not sample.due),
    }
    if bad:
        found["bad_input", "error_ratio"] = lambda: ratio(bad, lambda sample: not sample.due)
    clean = [sample for sample in samples if sample.kind == "clean"]
    if clean:
        found["abstention", "clean_ratio"] = lambda: abstained_ratio(clean)
    return found


def _p99(samples: Sequence[Sample]) -> float:
    return percentile_ms(in_good_faith(samples), 99)


def saturation(samples: Sequence[Sample], limits: Limits, *, rate: float, seconds: float) -> tuple[float, str]:
    """Of a ramp: the highest rate up to which every step met `answers`, 0 if the first did not, and a table of the steps."""
    wanted: Limits = {"answers": limits.get("answers", {})}
    rows, highest, unbroken = ["arrivals/s  answered/s   p50 ms   p99 ms   errors  met"], 0.0, True
    for part in shapes.parts("ramp", rate, seconds):
        step = between(samples, max(part.first_s, shapes.WARM_UP_S), part.last_s)
        answers = in_good_faith(step)
        lines = judge(step, wanted, shape="steady", rate=part.rate, seconds=seconds)
        unbroken = unbroken and bool(answers) and all(line.met for line in lines)
        highest = part.rate if unbroken else highest
        answered = sum(sample.due for sample in step) / (part.last_s - max(part.first_s, shapes.WARM_UP_S))
        errors = ratio(answers, lambda sample: not sample.due)
        rows.append(
            f"{part.rate:10.1f}  {answered:10.1f}  {percentile_ms(answers, 50):7.1f}  {percentile_ms(answers, 99):7.1f}  "
            f"{errors:7.2%}  {'yes' if unbroken else 'no'}"
        )
    return highest, "\n".join(rows)


def verdict(lines: Sequence[Line]) -> tuple[int, str]:
    """The exit code and the text to print."""
    rows = [
        f"{line.what:26s} {line.measured:12.4g}  at most {line.limit:<8g} {'met' if line.met else 'MISSED'}" for line in lines
    ]
    missed = [line.what for line in lines if not line.met]
    if not lines:
        return MISSED, "nothing was measured: MISSED"
    return (MISSED if missed else FINE), "\n".join([*rows, f"verdict: {'missed ' + ', '.join(missed) if missed else 'met'}"])
