"""report.json of `hauberk attack`, and its summary for the terminal."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from models.accuracy import Judgement
from models.printable import printable

Status = Literal["finished", "budget_spent", "interrupted", "gateway_gone", "skipped"]


class NamedDefence(BaseModel):
    """A defence, as the gateway describes it."""

    name: str
    mode: str


class AttackedGateway(BaseModel):
    """The gateway that was attacked, as it describes itself."""

    url: str
    model: str
    model_version: str = Field(description="The first twelve hex digits of the bundle's digest.")
    input_shape: tuple[int, int, int]
    classes: int
    defences: list[NamedDefence]


class AttackOptions(BaseModel):
    """The plan of the attacks."""

    attacks: list[str]
    data: str = Field(description="The data file's name.")
    split: str | None = Field(description="train or test, of a file with both; null for arrays in memory.")
    rows: str | None
    images: int = Field(description="How many images were attacked: the first of the chosen rows.")
    norm: Literal["inf"] = "inf"
    eps: float = Field(description="Radius of the L-inf ball around each image, of pixels in [0, 1].")
    seed: int
    max_queries: int
    patience_s: float
    fail_above: float | None
    fail_above_agreement: float | None


class Queries(BaseModel):
    """The cost for the attacker."""

    spent: int = Field(
        description="Images the gateway took: answered, abstained from, or given up on behind a deadline or time-out."
    )
    refused: int = Field(description="Of those, abstained from.")
    requests: int = Field(description="HTTP requests for predictions, those turned away included.")
    turned_away: int = Field(description="Requests answered with 429, 503 or 504.")
    waited_s: float = Field(description="Seconds waited because the gateway was busy or the budget of this client spent.")
    latency_p50_s: float | None = Field(description="Median seconds of an answered request.")
    latency_p99_s: float | None


class EvasionResult(BaseModel):
    """One attack that wants wrong labels. Every attacked image is counted once: wrong + right + abstained + unanswered = images."""

    attack: str
    status: Status
    reason: str | None = Field(description="One sentence where the status is not finished.")
    images: int
    wrong: int = Field(description="Answered with another label than the data's.")
    right: int
    abstained: int
    unanswered: int = Field(description="Of which the gateway was not asked any more.")
    wrong_share: float = Field(description="wrong / images.")
    median_distance: float | None = Field(description="Median L-inf distance from the image of those that got through.")
    queries: int
    refused_queries: int = Field(
        description="Abstained from on the way; a low share of abstained images may hide a high one here."
    )
    seconds: float


class TheftResult(BaseModel):
    """One attack that wants a copy of the model."""

    attack: str
    status: Status
    reason: str | None
    queries: int
    refused_queries: int
    held_out: int = Field(description="Images neither attacked nor learned from, on which the copy is judged, where answered.")
    agreement: float | None = Field(description="Share of them on which the copy's label is the gateway's.")
    copy_accuracy: float | None = Field(description="Share of them that the copy labels as the data do.")
    gateway_accuracy: float | None
    seconds: float


class Finding(BaseModel):
    """A limit that was exceeded: exit code 3."""

    what: str
    measured: float
    limit: float


class AttackReport(BaseModel):
    """The whole of report.json; written anew after each attack."""

    format: Literal[1] = 1
    software: str
    gateway: AttackedGateway
    options: AttackOptions
    status: Status = Field(description="finished, or what ended it early.")
    reason: str | None = None
    queries: Queries
    evasions: list[EvasionResult]
    worst_case_wrong: int = Field(description="Attacked images that got through in one attack or another.")
    worst_case_wrong_share: float
    thefts: list[TheftResult]
    findings: list[Finding]
    accuracy: Judgement | None = Field(
        default=None, description="Whether the gateway is as right on the images before any attack as it ought to be."
    )


def measured_limits(report: AttackReport) -> list[Finding]:
    """Every limit that was asked for, with what was measured; those exceeded are the report's findings."""
    limit, agreement = report.options.fail_above, report.options.fail_above_agreement
    measured = []
    if limit is not None:
        what = "share of attacked images answered wrong"
        measured.append(Finding(what=what, measured=report.worst_case_wrong_share, limit=limit))
    if agreement is not None:
        measured += [
            Finding(what=f"agreement of the copy ({theft.attack})", measured=theft.agreement, limit=agreement)
            for theft in report.thefts
            if theft.agreement is not None
        ]
    return measured


def summary(report: AttackReport) -> str:
    """Wrong answers, refusals and the stolen copy, in a few lines for the terminal; what the gateway calls itself is made printable."""
    gateway, queries = report.gateway, report.queries
    defences = ", ".join(f"{defence.name} {defence.mode}" for defence in gateway.defences) or "none"
    lines = [
        f"{gateway.url}: model {gateway.model} {gateway.model_version}, defences: {defences}",
        f"{queries.spent:,} of {report.options.max_queries:,} queries in {queries.requests:,} requests, {queries.refused:,} abstained "
        f"from, {queries.waited_s:.0f} s waited",
    ]
    lines += [f"  {row.attack:<14} {_evasion(row)}" for row in report.evasions]
    if report.evasions:
        lines.append(f"  {'worst case':<14} {100 * report.worst_case_wrong_share:5.1f} % answered wrong in one of these")
    lines += [f"  {theft.attack:<14} {_theft(theft)}" for theft in report.thefts]
    if report.accuracy is not None and report.accuracy.reason:
        lines.append(f"warning: {report.accuracy.reason}")
    if report.status != "finished":
        lines.append(f"ended early ({report.status.replace('_', ' ')}): {report.reason}")
    lines += [_against_the_limit(found) for found in measured_limits(report)]
    return "\n".join(map(printable, lines))


def _against_the_limit(found: Finding) -> str:
    if found.measured > found.limit:
        return f"over the limit: {found.what} {found.measured:.3f} > {found.limit:g}"
    return f"within the limit: {found.what} {found.measured:.3f} <= {found.limit:g}"


def _evasion(row: EvasionResult) -> str:
    if row.status == "skipped":
        return f"skipped: {row.reason}"
    distance = f", median distance {row.median_distance:.3f}" if row.median_distance is not None else ""
    unanswered = f", {row.unanswered} not asked about" if row.unanswered else ""
    return (
        f"{100 * row.wrong_share:5.1f} % answered wrong ({row.wrong} of {row.images}), {row.abstained} abstained{unanswered}{distance}, "
        f"{row.queries:,} queries"
    )


def _theft(row: TheftResult) -> str:
    if row.agreement is None or row.copy_accuracy is None:
        return f"learned nothing: {row.reason or 'every query was abstained from'}"
    return (
        f"the copy agrees with the gateway on {100 * row.agreement:.1f} % of {row.held_out} images and is right on "
        f"{100 * row.copy_accuracy:.1f} % (the gateway on {100 * (row.gateway_accuracy or 0):.1f} %), {row.queries:,} queries"
    )
