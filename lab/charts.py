"""Robust accuracy against strength, agreement of copies against queries, clusters of a class: the places of what is in a drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44
_TICKS = (0, 25, 50, 75, 100)
_SIDE, _MARGIN = 24, 12
_KINDS = {
    "first": ("first cluster", "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z"),
    "second": ("second cluster", "M0 -5.5L5 4L-5 4z"),
    "suspicious": ("suspicious", "M0 -6L6 0L0 6L-6 0z"),
}
"""Kinds of points: in words, and a shape of about 10 units, a circle, a triangle and a diamond; colours alone would not do."""


@dataclass(frozen=True)
class Curve:
    """A curve with its band.

    Attributes:
        number: of its colour, from 1.
        points, band: as SVG writes them.
        dots: (x, y, what a pointer is told).
    """

    name: str
    number: int
    dashed: bool
    points: str
    band: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing of lines, ticks (place, text) along x and y, and the plane's edges."""

    lines: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Point:
    """A sample in a drawing."""

    row: int
    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Scatter:
    """The samples of a class where its clusters were found.

    Attributes:
        about: what was found: class, label, method, samples.
        points: kind by kind, what is suspicious last and thus on top; from left to right within a kind.
        kinds: kind, in words, its shape, and how many points are of it.
    """

    about: Mapping[str, Any]
    points: tuple[Point, ...]
    kinds: tuple[tuple[str, str, str, int], ...]
    left: float = _SIDE
    right: float = WIDTH - _MARGIN
    top: float = _MARGIN
    bottom: float = HEIGHT - _SIDE
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def shapes(self) -> dict[str, str]:
        """The shape of each kind."""
        return {kind: shape for kind, _, shape, _ in self.kinds}


def scatter(found: Mapping[str, Any]) -> Scatter:
    """The clusters of a class.

    Args:
        found: its points (row, x, y, in the second cluster, suspicious), and what is said about it.
    """
    points = found["points"]
    x_of = _scale([float(one[1]) for one in points], _SIDE + _MARGIN, WIDTH - 2 * _MARGIN)
    y_of = _scale([float(one[2]) for one in points], HEIGHT - _SIDE - _MARGIN, 2 * _MARGIN)
    placed = [
        Point(int(row), x_of(x), y_of(y), "suspicious" if suspicious else "second" if second else "first")
        for row, x, y, second, suspicious in points
    ]
    order = list(_KINDS)
    placed.sort(key=lambda one: (order.index(one.kind), one.x, one.row))
    count = {kind: sum(one.kind == kind for one in placed) for kind in order}
    kinds = tuple((kind, words, shape, count[kind]) for kind, (words, shape) in _KINDS.items() if count[kind])
    return Scatter({name: value for name, value in found.items() if name != "points"}, tuple(placed), kinds)


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """From these values to places from `start` to `end`."""
    low, high = min(values), max(values)
    return lambda value: round(start + (end - start) * ((float(value) - low) / (high - low) if high > low else 0.5), 1)


def robust_accuracy(result: Mapping[str, Any], titles: Mapping[str, str]) -> Chart | None:
    """The curves of an attacked set: undefended, and dashed behind the bundle's defences; None where no attack has a strength."""
    by_attack: dict[str, list[Mapping[str, Any]]] = {}
    for line in result["lines"]:
        if line["eps"] is not None:
            by_attack.setdefault(line["attack"], []).append(line)
    if not by_attack:
        return None
    most = max(line["eps"] for lines in by_attack.values() for line in lines)
    drawn = []
    for number, (attack, lines) in enumerate(by_attack.items(), 1):
        name = titles.get(attack, attack)
        start = {"eps": 0.0, "share": result["clean"]}
        drawn.append(_line(name, number, [start, *({"eps": one["eps"], "share": one["right"]} for one in lines)], most))
        if result["clean_defended"] is not None:
            start = {"eps": 0.0, "share": result["clean_defended"]}
            shares = [start, *({"eps": one["eps"], "share": one["defended"]["right"]} for one in lines)]
            drawn.append(_line(f"{name}, defended", number, shares, most, dashed=True))
    x_ticks = tuple((_x(most * part / 4, most), f"{most * part / 4:.3g}") for part in range(5))
    return Chart(tuple(drawn), x_ticks, tuple((_y(tick / 100), str(tick)) for tick in _TICKS))


def agreement(result: Mapping[str, Any]) -> Chart | None:
    """The curves of stolen copies, a colour a victim, dashed for thieves who use labels only; None without any."""
    rows = result["rows"]
    if not rows:
        return None
    budgets = sorted({row["budget"] for row in rows})
    at = {budget: _x(place, max(1, len(budgets) - 1)) for place, budget in enumerate(budgets)}
    victims = list(dict.fromkeys(row["victim"] for row in rows))
    drawn = []
    for victim, thief in dict.fromkeys((row["victim"], row["thief"]) for row in rows):
        line = [row for row in rows if (row["victim"], row["thief"]) == (victim, thief)]
        dots = tuple(
            (
                at[row["budget"]],
                _y(row["agreement"]),
                f"{victim}, {thief}, {row['queries']:,} queries: {100 * row['agreement']:.1f} %",
            )
            for row in line
        )
        points = _written([(x, y) for x, y, _ in dots])
        drawn.append(Curve(f"{victim}: {thief}", victims.index(victim) + 1, thief != "probabilities", points, "", dots))
    ticks = tuple((x, f"{budget:,}") for budget, x in at.items())
    return Chart(tuple(drawn), ticks, tuple((_y(tick / 100), str(tick)) for tick in _TICKS))


def _line(name: str, number: int, shares: Sequence[Mapping[str, Any]], most: float, *, dashed: bool = False) -> Curve:
    places = [(_x(one["eps"], most), one["share"]) for one in shares]
    upper = [(x, _y(found["high"])) for x, found in places]
    lower = [(x, _y(found["low"])) for x, found in reversed(places)]
    dots = tuple(
        (
            x,
            _y(found["rate"]),
            f"{name}, {one['eps']:g}: {100 * found['rate']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})",
        )
        for (x, found), one in zip(places, shares, strict=True)
    )
    return Curve(name, (number - 1) % 8 + 1, dashed, _written([(x, y) for x, y, _ in dots]), _written([*upper, *lower]), dots)


def _x(value: float, most: float) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * value / most, 1)


def _y(share: float) -> float:
    return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 1)


def _written(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
