"""Red-team a running gateway: from a URL and labelled images to a report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attacks.attack import check_eps
from attacks.gateway.remote import GatewayClassifier
from evaluation.red_team.attack_report import (
    AttackedGateway,
    AttackOptions,
    AttackReport,
    NamedDefence,
    Queries,
    measured_limits,
)
from evaluation.red_team.campaign import ATTACKS, Campaign
from models.datasets import IN_MEMORY, Dataset, Origin
from models.errors import InvalidInput
from models.printable import printable_json
from models.progress import Progress, silent
from models.version import __version__

REPORT, IMAGES = "report.json", "adversarial.npz"
GREY_EPS, COLOUR_EPS = 0.3, 8 / 255


@dataclass(frozen=True, kw_only=True)
class RedTeamPlan:
    """Which attacks, on how much, and what counts as a finding.

    Args:
        attacks: names of `ATTACKS`; they run in that table's order.
        images: how many are attacked: the first. Those after them belong to the attacker.
        eps: L-inf radius in [0, 1]; 0.3 for grey and 8/255 for colour images when none.
        max_queries: images sent to the gateway, in all.
        patience_s: seconds to wait for a busy gateway, in all.
        fail_above: a finding when a larger share of the attacked images is answered wrong.
        fail_above_agreement: a finding when a stolen copy agrees with the gateway on a larger share.
        origin: where the images came from, for the report.
    """

    attacks: tuple[str, ...] = tuple(ATTACKS)
    images: int = 50
    eps: float | None = None
    seed: int = 0
    max_queries: int = 20_000
    patience_s: float = 120.0
    fail_above: float | None = None
    fail_above_agreement: float | None = None
    origin: Origin = IN_MEMORY

    def __post_init__(self) -> None:
        if not self.attacks or not set(self.attacks) <= set(ATTACKS):
            raise InvalidInput(f"expected attacks from {', '.join(ATTACKS)}, got {', '.join(self.attacks) or 'none'}")
        if self.eps is not None:
            check_eps(self.eps, "attack")
        if self.images < 1:
            raise InvalidInput(f"expected at least 1 image to attack, got {self.images}")

    def options(self, gateway: GatewayClassifier) -> AttackOptions:
        """The plan as the report tells it, for this gateway."""
        default = GREY_EPS if gateway.input_shape[2] == 1 else COLOUR_EPS
        return AttackOptions(
            attacks=[name for name in ATTACKS if name in self.attacks],
            data=self.origin.file,
            split=self.origin.split,
            rows=self.origin.rows,
            images=self.images,
            eps=default if self.eps is None else self.eps,
            seed=self.seed,
            max_queries=self.max_queries,
            patience_s=self.patience_s,
            fail_above=self.fail_above,
            fail_above_agreement=self.fail_above_agreement,
        )


DEFAULT_PLAN = RedTeamPlan()


def red_team(
    gateway: str | GatewayClassifier,
    data: Dataset,
    *,
    plan: RedTeamPlan = DEFAULT_PLAN,
    out: Path | None = None,
    progress: Progress = silent,
) -> AttackReport:
    """Attack a gateway that is yours through its public routes, and report the wrong answers.

    Args:
        gateway: its URL, or an open `GatewayClassifier`, which has an API key and a patience of its own and can be stopped.
        data: labelled images in the gateway's shape; the classes in the gateway's order.
        out: directory for report.json and adversarial.npz, both written anew after each attack.
        progress: told (attack, queries, queries it may spend).

    Raises: InvalidInput: no gateway there, data that are not the gateway's (it is no better than guessing on them), too few queries. A
    gateway that goes away later is no exception: the report's status says "gateway_gone".
    """
    with _opened(gateway, plan) as target:
        _check_fit(data, target, plan.images)
        options = plan.options(target)
        campaign = Campaign(
            gateway=target,
            attacked=data.take(slice(0, plan.images)),
            others=data.take(slice(plan.images, len(data))),
            eps=options.eps,
            seed=plan.seed,
            queries=plan.max_queries,
            progress=progress,
        )
        campaign.check_budget(options.attacks)
        campaign.judge(options.attacks)
        for _ in campaign.run(options.attacks):
            if out is not None:
                _write(campaign, _report(campaign, options), out)
            campaign.judge(options.attacks)
        report = _report(campaign, options)
        if out is not None:
            _write(campaign, report, out)
    return report


@contextmanager
def _opened(gateway: str | GatewayClassifier, plan: RedTeamPlan) -> Iterator[GatewayClassifier]:
    if isinstance(gateway, GatewayClassifier):
        yield gateway
    else:
        with GatewayClassifier(gateway, patience_s=plan.patience_s) as opened:
            yield opened


def _check_fit(data: Dataset, gateway: GatewayClassifier, images: int) -> None:
    """Whether these data are the gateway's. Raises: InvalidInput."""
    shape, classes = data.images.shape[1:], len(gateway.labels)
    if shape != gateway.input_shape:
        raise InvalidInput(f"expected images of the gateway's shape {gateway.input_shape}, got {shape}")
    if int(data.labels.max()) >= classes:
        raise InvalidInput(f"expected labels below {classes}, the classes of the gateway, got {int(data.labels.max())}")
    if len(data) < images:
        raise InvalidInput(f"expected at least {images} images to attack, got {len(data)}; attack fewer (--images)")


def _write(campaign: Campaign, report: AttackReport, out: Path) -> None:
    """Both files, whole or not at all."""
    arrays: dict[str, Any] = {"given": campaign.attacked.images, "labels": campaign.attacked.labels}
    for name, images in campaign.images.items():
        arrays |= {f"images_{name}": images, f"answers_{name}": campaign.answers[name]}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as scratch:
        draft = Path(scratch)
        np.savez_compressed(draft / IMAGES, **arrays)
        (draft / REPORT).write_text(printable_json(report.model_dump_json(indent=2)) + "\n", encoding="utf-8")
        for name in (IMAGES, REPORT):
            (draft / name).replace(out / name)


def _report(campaign: Campaign, options: AttackOptions) -> AttackReport:
    wrong = campaign.worst_case_wrong
    status, reason = campaign.status
    report = AttackReport(
        software=__version__,
        gateway=_described(campaign.gateway),
        options=options,
        status=status,
        reason=reason,
        queries=_queries(campaign.gateway),
        evasions=campaign.evasions,
        worst_case_wrong=int(wrong.sum()),
        worst_case_wrong_share=float(wrong.mean()),
        thefts=campaign.thefts,
        findings=[],
        accuracy=campaign.accuracy,
    )
    return report.model_copy(update={"findings": [limit for limit in measured_limits(report) if limit.measured > limit.limit]})


def _described(gateway: GatewayClassifier) -> AttackedGateway:
    served = gateway.served
    return AttackedGateway(
        url=gateway.url,
        model=served.model,
        model_version=served.version,
        input_shape=served.input_shape,
        classes=len(served.labels),
        defences=[NamedDefence(name=name, mode=mode) for name, mode in served.defences],
    )


def _queries(gateway: GatewayClassifier) -> Queries:
    traffic = gateway.traffic
    return Queries(
        spent=traffic.queries,
        refused=traffic.refused,
        requests=traffic.requests,
        turned_away=traffic.turned_away,
        waited_s=round(traffic.waited_s, 3),
        latency_p50_s=_percentile(traffic.latency_s, 50),
        latency_p99_s=_percentile(traffic.latency_s, 99),
    )


def _percentile(seconds: list[float], percent: float) -> float | None:
    return round(float(np.percentile(seconds, percent)), 6) if seconds else None
