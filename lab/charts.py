"""Robust accuracy against strength, and agreement of copies against queries: the places of lines, bands and ticks in a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44
_TICKS = (0, 25, 50, 75, 100)


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
