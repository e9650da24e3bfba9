"""The attacks of `hauberk attack`, one after the other, on one gateway with one budget of queries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attacks.attack import REFUSED, Goal, NoMoreAnswers, predicted_labels
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.noise import RandomNoise
from attacks.evasion.square import Square
from attacks.evasion.transfer import transferred
from attacks.evasion.vanished import vanished_gradients
from attacks.extraction.copycat_cnn import CopycatCNN, Theft
from attacks.gateway.remote import GatewayClassifier, GatewayGone, Stopped
from attacks.oracle import Unfailing
from evaluation.red_team.attack_report import EvasionResult, Status, TheftResult
from models.accuracy import Judgement, judge_answers
from models.classifier import Images, Labels
from models.datasets import Dataset
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput
from models.machine import processors
from models.progress import silent

UNANSWERED = -2
"""In place of a label: the gateway was not asked."""

_CLEAN = "clean"
_NOISE_DRAWS = 10
_STARTS_AT_MOST = 1000
_HELD_OUT_SHARE, _HELD_OUT_AT_MOST = 0.2, 500
_FEWEST_STOLEN = 20


@dataclass
class Campaign:
    """One gateway under attack.

    Args:
        gateway: the one under attack; its `queries_at_most` is set for each attack.
        attacked: the images to be answered wrongly, and their labels.
        others: the attacker's own images, to train a copy on and to begin HopSkipJump from.
        eps: radius of the L-inf ball.
        queries: for all attacks together.
        progress: told (attack, queries, of).

    Attributes:
        evasions, thefts: a row for each attack that has ended.
        accuracy: whether the gateway is right before any attack, where it was asked.
        images, answers: by attack, float32 [n, h, w, c] and int64 [n] (REFUSED or UNANSWERED where there is no label).
    """

    gateway: GatewayClassifier
    attacked: Dataset
    others: Dataset
    eps: float
    seed: int
    queries: int
    progress: Callable[[str, int, int], None] = silent
    evasions: list[EvasionResult] = field(default_factory=list)
    thefts: list[TheftResult] = field(default_factory=list)
    images: dict[str, Images] = field(default_factory=dict)
    answers: dict[str, Labels] = field(default_factory=dict)
    stolen: Theft | None = None
    accuracy: Judgement | None = None

    @property
    def goal(self) -> Goal:
        return Goal(self.attacked.labels)

    @property
    def worst_case_wrong(self) -> NDArray[np.bool_]:
        """Which images got through in one attack or another, [n]."""
        wrong = np.zeros(len(self.attacked), bool)
        for answers in self.answers.values():
            wrong |= self.goal.reached(answers) & (answers != UNANSWERED)
        return wrong

    @property
    def status(self) -> tuple[Status, str | None]:
        """How it goes so far, or how it ended."""
        return self._status(None, None)

    def run(self, names: list[str]) -> Iterator[str]:
        """The attacks of these names, in this order, each named when it has ended; stops when the gateway does.

        Queries that an attack leaves of its share go to the attacks after it.
        """
        for number, name in enumerate(names):
            left = self.queries - self.gateway.traffic.queries
            share = self._share(left, names[number:])
            self.gateway.queries_at_most = self.gateway.traffic.queries + share
            self._attack(name, share)
            yield name
            if self.gateway.ended is not None:
                return

    def _share(self, left: int, names: list[str]) -> int:
        """The queries that the first of these attacks may spend: its need, or an even part among attacks that gain from more queries."""
        needs = [ATTACKS[name].needs(len(self.attacked)) for name in names]
        if not ATTACKS[names[0]].takes_all:
            return min(left, needs[0])
        fixed = sum(need for name, need in zip(names, needs, strict=True) if not ATTACKS[name].takes_all)
        even = (left - fixed) // sum(ATTACKS[name].takes_all for name in names)
        return min(max(even, needs[0]), left - sum(needs[1:]))

    def check_budget(self, names: list[str]) -> None:
        """Whether there are queries enough to begin all of these. Raises: InvalidInput."""
        least = self._least(names)
        if self.queries < least:
            raise InvalidInput(
                f"expected at least {least:,} queries for {len(self.attacked)} images and {', '.join(names)}, got {self.queries:,}; "
                "allow more (--max-queries) or attack fewer images (--images)"
            )

    def judge(self, names: list[str]) -> None:
        """Judge the answers to the images as they are, once; where none of these attacks asks for them and the budget allows, ask.

        Raises: InvalidInput: the gateway is no better than guessing, so that every attack would seem to succeed.
        """
        if self.accuracy is not None:
            return
        answers = self.answers.get(_CLEAN)
        if answers is None and _CLEAN not in names and self.queries >= self._least(names) + len(self.attacked):
            self.gateway.queries_at_most = self.gateway.traffic.queries + len(self.attacked)
            answers = predicted_labels(Unfailing(self.gateway).predict(self.attacked.images))
        if answers is not None:
            given = answers >= 0
            self.accuracy = judge_answers(self.attacked.labels[given], answers[given], len(self.gateway.labels))
            self.accuracy.better_than_guessing()

    def _least(self, names: list[str]) -> int:
        return sum(ATTACKS[name].needs(len(self.attacked)) for name in names)

    def _attack(self, name: str, share: int) -> None:
        before, refused, started = self.gateway.traffic.queries, self.gateway.traffic.refused, time.monotonic()
        self.gateway.on_answer = lambda queries: self.progress(name, queries - before, share)
        self.progress(name, 0, share)

        def spent() -> dict[str, Any]:
            traffic = self.gateway.traffic
            return {
                "queries": traffic.queries - before,
                "refused_queries": traffic.refused - refused,
                "seconds": round(time.monotonic() - started, 3),
            }

        if ATTACKS[name].steals:
            outcome = self._steal(share)
            self.thefts.append(TheftResult(attack=name, **outcome._asdict(), **spent()))
        else:
            self._evade(name, share, spent)
        done = self.gateway.traffic.queries - before
        self.progress(name, done, done)  # what is left of the share goes to the attacks after this one

    def _evade(self, name: str, share: int, spent: Callable[[], dict[str, Any]]) -> None:
        n = len(self.attacked)
        found, success = self.attacked.images, np.zeros(n, bool)
        answers = np.full(n, UNANSWERED)
        skipped = cut_short = None
        try:
            found, success = ATTACKS[name].craft(self, share)
            answers, cut_short = self._judge(found, success)
        except (InvalidInput, Stopped) as mistake:
            skipped = str(mistake)
        status, reason = self._status(skipped, cut_short)
        self.images[name], self.answers[name] = found, answers
        wrong = self.goal.reached(answers) & (answers != UNANSWERED)
        distance = np.abs(found - self.attacked.images).reshape(n, -1).max(axis=1)
        self.evasions.append(
            EvasionResult(
                attack=name,
                status=status,
                reason=reason,
                images=n,
                wrong=int(wrong.sum()),
                right=int((answers == self.attacked.labels).sum()),
                abstained=int((answers == REFUSED).sum()),
                unanswered=int((answers == UNANSWERED).sum()),
                wrong_share=float(wrong.mean()),
                median_distance=float(np.median(distance[wrong])) if wrong.any() else None,
                **spent(),
            )
        )

    def _judge(self, found: Images, success: NDArray[np.bool_]) -> tuple[Labels, str | None]:
        """The gateway's answers to the images an attack ended with; where it answers no more, its answers during the attack."""
        cut_short = None
        try:
            answered = self.gateway.predict(found)
        except NoMoreAnswers as end:
            answered, cut_short = end.answered, str(end)
        labels = np.full(len(found), UNANSWERED)
        labels[: len(answered)] = predicted_labels(answered)
        # Some other class: which, the attack has not kept.
        other = (self.attacked.labels + 1) % len(self.gateway.labels)
        return np.where((labels == UNANSWERED) & success, other, labels), cut_short

    def _steal(self, share: int) -> _Outcome:
        try:
            stolen = self.steal(share)
        except (InvalidInput, Stopped) as mistake:
            return _Outcome(*self._status(str(mistake), None))
        held = self._held_out(share)
        victim = Unfailing(self.gateway)
        theirs = predicted_labels(victim.predict(held.images))
        status = self._status(None, "as many images have been sent as may be" if victim.closed else None)
        answered = theirs != REFUSED
        if not answered.any() or not stolen.transfer.answers.any():
            return _Outcome(*status)
        ours, theirs, truth = (
            predicted_labels(stolen.clone.predict(held.images[answered])),
            theirs[answered],
            held.labels[answered],
        )
        shares = (float((one == other).mean()) for one, other in ((ours, theirs), (ours, truth), (theirs, truth)))
        return _Outcome(*status, int(answered.sum()), *shares)

    def _held_out(self, share: int) -> Dataset:
        """The last of the others, which the thief does not train on."""
        held = min(_HELD_OUT_AT_MOST, int(_HELD_OUT_SHARE * min(share, len(self.others))))
        return self.others.take(slice(len(self.others) - held, len(self.others)))

    def steal(self, share: int) -> Theft:
        """A copy of the gateway's model, trained on the labels it answers; made once. Raises: InvalidInput."""
        if self.stolen is None:
            held = len(self._held_out(share))
            pool = self.others.images[: len(self.others) - held]
            queries = min(len(pool), share - held)
            if queries < _FEWEST_STOLEN:
                raise InvalidInput(
                    f"expected at least {_FEWEST_STOLEN} images and queries to steal with, got {max(0, queries)}; give more images "
                    "beside those attacked (--rows, --images) and allow more queries (--max-queries)"
                )
            import_tensorflow(processors())
            victim = Unfailing(self.gateway)
            self.stolen = CopycatCNN(queries=queries)(victim, pool, seed=self.seed, progress=self._unless_stopped)
        return self.stolen

    def _unless_stopped(self, what: str, done: int, of: int) -> None:
        """End the training of a copy once the attacks were stopped. Raises: Stopped."""
        if isinstance(self.gateway.ended, Stopped):
            raise self.gateway.ended

    def _status(self, skipped: str | None, cut_short: str | None) -> tuple[Status, str | None]:
        ended = self.gateway.ended
        if isinstance(ended, GatewayGone):
            return "gateway_gone", str(ended)
        if ended is not None:
            return "interrupted", "stopped with Ctrl-C"
        if skipped is not None:
            return "skipped", skipped
        return ("budget_spent", cut_short) if cut_short is not None else ("finished", None)


class _Outcome(NamedTuple):
    status: Status
    reason: str | None
    held_out: int = 0
    agreement: float | None = None
    copy_accuracy: float | None = None
    gateway_accuracy: float | None = None


Craft = Callable[[Campaign, int], tuple[Images, NDArray[np.bool_]]]
"""A share of queries -> images [n, h, w, c] within eps, and which of them the gateway has called wrong already [n]."""


@dataclass(frozen=True)
class Kind:
    """One attack of the table.

    Args:
        per_image, at_least: queries it needs: so many for each image, and so many in all.
        takes_all: whether more queries make it stronger.
        craft: see `Craft`; nothing for a theft.
    """

    per_image: int = 0
    at_least: int = 0
    takes_all: bool = False
    craft: Craft = lambda campaign, share: (campaign.attacked.images, np.zeros(len(campaign.attacked), bool))
    steals: bool = False

    def needs(self, images: int) -> int:
        """Queries below which it is not worth beginning."""
        return self.per_image * images + self.at_least


def _noise(campaign: Campaign, share: int) -> tuple[Images, NDArray[np.bool_]]:
    draws = max(1, share // len(campaign.attacked) - 1)
    found = RandomNoise(eps=campaign.eps, queries=draws)(
        campaign.gateway, campaign.attacked.images, campaign.goal, seed=campaign.seed
    )
    return found.images, found.success


def _square(campaign: Campaign, share: int) -> tuple[Images, NDArray[np.bool_]]:
    per_image = share // len(campaign.attacked) - 1
    found = Square(eps=campaign.eps, queries=per_image)(
        campaign.gateway, campaign.attacked.images, campaign.goal, seed=campaign.seed
    )
    return found.images, found.success


def _hop_skip_jump(campaign: Campaign, share: int) -> tuple[Images, NDArray[np.bool_]]:
    per_image = share // len(campaign.attacked) - 1
    starts = campaign.others.take(slice(0, _STARTS_AT_MOST))
    attack = HopSkipJump(norm=math.inf, eps=campaign.eps, queries=per_image, starts=starts, first_estimate=min(100, per_image))
    found = attack(campaign.gateway, campaign.attacked.images, campaign.goal, seed=campaign.seed)
    return found.images, found.success


def _transfer(campaign: Campaign, share: int) -> tuple[Images, NDArray[np.bool_]]:
    surrogate = campaign.steal(share - len(campaign.attacked)).clone
    nothing = vanished_gradients(surrogate, campaign.attacked.images, campaign.attacked.labels)
    if nothing is not None:
        raise InvalidInput(f"the stolen copy cannot be attacked: {nothing}")
    found = transferred(surrogate, campaign.attacked.images, campaign.goal, eps=campaign.eps, seed=campaign.seed)
    return found, np.zeros(len(campaign.attacked), bool)


ATTACKS: dict[str, Kind] = {
    _CLEAN: Kind(per_image=1),
    "noise": Kind(per_image=1 + _NOISE_DRAWS, craft=_noise),
    "extraction": Kind(at_least=2 * _FEWEST_STOLEN, takes_all=True, steals=True),
    "transfer": Kind(per_image=1, at_least=2 * _FEWEST_STOLEN, takes_all=True, craft=_transfer),
    "square": Kind(per_image=10, takes_all=True, craft=_square),
    "hop_skip_jump": Kind(per_image=40, takes_all=True, craft=_hop_skip_jump),
}
"""By name, in the order in which they run; an attack leaves the queries it does not spend to the later ones."""
