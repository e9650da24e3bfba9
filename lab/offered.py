"""What can be chosen in the lab, as plain values: the attacks with their strengths and budgets, and what the defences' sliders move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lab.errors import Refused

IMAGES_AT_MOST = 500
STRENGTH_AT_MOST = 0.5


@dataclass(frozen=True)
class OfferedAttack:
    """An attack of the list.

    Attributes:
        title: the published name.
        strength: what the slider sets, in words; empty for an attack that seeks the smallest change there is.
        follows_gradients: whether it needs the classifier's.
        look: steps that one image gets at once, where the attack in full is too slow for a slider; 0 where it is not.
    """

    title: str
    strength: str
    follows_gradients: bool
    note: str
    look: int = 0

    @property
    def note_of_one(self) -> str:
        """The note beside a single image."""
        return f"{self.note}; here a quick look of {self.look} steps, a set is attacked in full" if self.look else self.note


_LINF = "largest change of a pixel (eps)"
ATTACKS: Mapping[str, OfferedAttack] = {
    "fgm": OfferedAttack("Fast gradient (FGM)", _LINF, True, "one step along the gradient"),
    "bim": OfferedAttack("Basic iterative (BIM)", _LINF, True, "several steps from the image"),
    "pgd": OfferedAttack("Projected gradient descent (PGD)", _LINF, True, "several steps, and once more from a random start"),
    "jsma": OfferedAttack(
        "Saliency map (JSMA)", "share of pixels that may change", True, "few pixels, changed as far as they go"
    ),
    "cw": OfferedAttack("Carlini and Wagner (CW)", "", True, "seeks the smallest L2 change; slow", look=24),
    "deepfool": OfferedAttack("DeepFool", "", True, "steps to the nearest decision boundary", look=8),
    "square": OfferedAttack("Square", _LINF, False, "asks for probabilities only"),
    "hop_skip_jump": OfferedAttack("HopSkipJump", _LINF, False, "asks for labels only"),
    "patch": OfferedAttack(
        "Patch (LaVAN)", "side of the patch, as a share of the image's", True, "any content in a small square", look=20
    ),
}

BACKDOORS: Mapping[str, str] = {
    "corner_pattern": "corner pattern",
    "single_pixel": "single pixel",
    "blended": "blended pattern",
    "image_patch": "image patch",
    "all_to_all": "all to all (corner pattern)",
    "source_specific": "source-specific (corner pattern)",
    "warped": "warped",
    "clean_label": "clean labels (stripes)",
}
"""The kinds of backdoors that copies are trained with, by their names in `attacks.backdoors.kinds`."""
TRAINED_ON = (200, 4000)
"""On how many images a backdoored copy is trained, at least and at most."""

_TRIGGER = "laid on the image as an attacker would who has poisoned the model; one without that backdoor should not react"
TRIGGERS: Mapping[str, OfferedAttack] = {
    name: OfferedAttack(f"Trigger: {title}", "", False, _TRIGGER)
    for name, title in BACKDOORS.items()
    if name not in ("all_to_all", "source_specific")  # which have the trigger of another
}
ONE_IMAGE: Mapping[str, OfferedAttack] = {**ATTACKS, **TRIGGERS}
"""What can be done to one image at once."""


@dataclass(frozen=True)
class AttackEffort:
    """How much an attack may spend on an image."""

    steps: int
    restarts: int
    queries: int
    searches: int
    places: int


BUDGETS: Mapping[str, AttackEffort] = {
    "quick": AttackEffort(steps=10, restarts=0, queries=100, searches=3, places=4),
    "thorough": AttackEffort(steps=40, restarts=1, queries=500, searches=6, places=10),
}


@dataclass(frozen=True, kw_only=True)
class AttackChoice:
    """The attack of one image. Raises: Refused on construction."""

    attack: str
    strength: float
    budget: str = "quick"
    image: int = 0

    def __post_init__(self) -> None:
        if self.attack not in ONE_IMAGE:
            raise Refused("attack", f"expected one of {', '.join(ONE_IMAGE)}")
        _check_strength(self.strength)
        if self.budget not in BUDGETS:
            raise Refused("budget", f"expected {' or '.join(BUDGETS)}")
        if self.image < 0:
            raise Refused("image", "expected a number from 0")

    @classmethod
    def from_form(cls, given: Mapping[str, Any]) -> Self:
        """What a form says."""
        return cls(
            attack=text(given, "attack"),
            strength=number(given, "strength"),
            budget=text(given, "budget") or "quick",
            image=whole(given, "image"),
        )


@dataclass(frozen=True, kw_only=True)
class AttackedSet:
    """Attacks on some of the images. Raises: Refused on construction."""

    attacks: tuple[str, ...]
    strength: float
    images: int
    budget: str

    def __post_init__(self) -> None:
        if not self.attacks:
            raise Refused("attacks", "expected at least one attack")
        if not set(self.attacks) <= set(ATTACKS):
            raise Refused("attacks", f"expected some of {', '.join(ATTACKS)}")
        _check_strength(self.strength)
        if not 1 <= self.images <= IMAGES_AT_MOST:
            raise Refused("images", f"expected 1 to {IMAGES_AT_MOST} images")
        if self.budget not in BUDGETS:
            raise Refused("budget", f"expected {' or '.join(BUDGETS)}")

    @classmethod
    def from_form(cls, given: Mapping[str, Any]) -> Self:
        """What a form says."""
        return cls(
            attacks=_some_of(ATTACKS, given, "attacks"),
            strength=number(given, "strength"),
            images=whole(given, "images"),
            budget=text(given, "budget"),
        )

    def as_json(self) -> dict[str, Any]:
        """The record that `from_form` reads."""
        return {"attacks": list(self.attacks), "strength": self.strength, "images": self.images, "budget": self.budget}

    @property
    def radii(self) -> tuple[float, ...]:
        """The strengths that are tried."""
        return tuple(round(self.strength * part / 4, 4) for part in range(1, 5))


@dataclass(frozen=True, kw_only=True)
class PoisonedCopies:
    """Backdoors that copies of the classifier are trained with. Raises: Refused on construction."""

    kinds: tuple[str, ...]
    images: int

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(BACKDOORS):
            raise Refused("kinds", "expected at least one kind of backdoor of the list")
        fewest, most = TRAINED_ON
        if not fewest <= self.images <= most:
            raise Refused("trained_on", f"expected {fewest} to {most:,} images")

    @classmethod
    def from_form(cls, given: Mapping[str, Any]) -> Self:
        """What a form says."""
        return cls(kinds=_some_of(BACKDOORS, given, "kinds"), images=whole(given, "trained_on"))

    def as_json(self) -> dict[str, Any]:
        """The record that `from_form` reads."""
        return {"kinds": list(self.kinds), "trained_on": self.images}


DEFENCES: Mapping[str, str] = {
    "strip": "STRIP",
    "sentinet": "SentiNet",
    "badexpert": "BaDExpert",
    "patch_cleanser": "PatchCleanser",
}
"""Names of defences that are not written as words."""

PARAMETERS: Mapping[str, tuple[str, float, float]] = {
    "total_variation.weight": ("smoothing (weight)", 0.001, 0.5),
    "strip.threshold": ("refuses at or below", 0.0, 1.0),
    "reverse_sigmoid.beta": ("blur (beta)", 0.05, 1.0),
    "reverse_sigmoid.gamma": ("steepness (gamma)", 0.01, 1.0),
}
"""What the sliders of the defences move: DEFENCE.PARAMETER, in words, from, to."""


@dataclass(frozen=True, kw_only=True)
class Armour:
    """Which defences are on, and what their sliders say. Raises: Refused on construction."""

    on: tuple[str, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            if name not in PARAMETERS:
                raise Refused("", "expected parameters of the list")
            _, low, high = PARAMETERS[name]
            if not low <= value <= high:
                raise Refused(name, f"expected a number from {low:g} to {high:g}")

    @classmethod
    def from_form(cls, given: Mapping[str, Any]) -> Self:
        """What a form says."""
        on, moved = given.get("on", []), given.get("parameters", {})
        if (
            not isinstance(on, list)
            or not all(isinstance(one, str) and len(one) <= 64 for one in on)
            or not isinstance(moved, dict)
        ):
            raise Refused("", "expected names of defences, and numbers for their parameters")
        return cls(on=tuple(on), parameters={str(name): number(moved, name) for name in moved})


STOLEN_QUERIES: Mapping[str, tuple[int, ...]] = {"quick": (100, 400), "thorough": (100, 250, 1000, 4000)}
"""The numbers of queries that thieves are allowed, by budget."""


def steal_budget(given: Mapping[str, Any]) -> str:
    """The budget that a form says. Raises: Refused."""
    budget = text(given, "budget") or "quick"
    if budget not in STOLEN_QUERIES:
        raise Refused("budget", f"expected {' or '.join(STOLEN_QUERIES)}")
    return budget


def text(given: Mapping[str, Any], name: str) -> str:
    """A short text of a form. Raises: Refused."""
    value = given.get(name, "")
    if not isinstance(value, str) or len(value) > 200:
        raise Refused(name, "expected a short text")
    return value


def number(given: Mapping[str, Any], name: str) -> float:
    """A finite number of a form. Raises: Refused."""
    try:
        value = float(given.get(name, "nan"))
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise Refused(name, "expected a number")
    return value


def whole(given: Mapping[str, Any], name: str) -> int:
    """A whole number of a form. Raises: Refused."""
    value = number(given, name)
    if value != int(value) or abs(value) > 1e9:
        raise Refused(name, "expected a whole number")
    return int(value)


def _some_of(known: Mapping[str, Any], given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The known names that a form's list holds, in their order. Raises: Refused: a name that is not known."""
    chosen = given.get(name, [])
    if isinstance(chosen, str):
        chosen = [chosen] if chosen else []
    if not isinstance(chosen, list) or not all(isinstance(one, str) for one in chosen):
        raise Refused(name, "expected names of a list")
    if not set(chosen) <= set(known):
        raise Refused(name, f"expected some of {', '.join(known)}")
    return tuple(one for one in known if one in chosen)


def _check_strength(strength: float) -> None:
    if not 0 < strength <= STRENGTH_AT_MOST:
        raise Refused("strength", f"expected a number above 0, at most {STRENGTH_AT_MOST:g}")
