"""What the dashboards show: every panel with its queries, as plain values. `dashboards.py` turns them into Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.errors import every_problem

_OURS = 'job="hauberk",instance=~"$instance"'
_ASKED = f'{_OURS},route=~"/predict.*|/v2/models/.+/infer"'


_AXES = {"reqps": "requests/s", "s": "seconds", "percentunit": "share", "bytes": "bytes"}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        queries: legend and PromQL, each a line; of a heatmap the one query, by `le`.
        unit: Grafana's name of it.
        width: of 24.
        counted: the axis's label where the unit does not give one: the things counted or the quantity measured.
    """

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["lines", "number", "heatmap"] = "lines"
    width: int = 8
    stacked: bool = False
    counted: str = ""

    @property
    def axis(self) -> str:
        """The label of the value axis."""
        return self.counted or _AXES[self.unit]


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels, each under its heading."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _rate(metric: str, labels: str = _OURS, by: str = "") -> str:
    return f"sum {f'by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def _quantile(q: float, metric: str, labels: str = _OURS, by: str = "") -> str:
    return f"histogram_quantile({q}, {_rate(f'{metric}_bucket', labels, f'{by}, le' if by else 'le')})"


def _mean(metric: str, labels: str = _OURS, by: str = "") -> str:
    return f"{_rate(f'{metric}_sum', labels, by)} / ({_rate(f'{metric}_count', labels, by)} > 0)"


def _quantiles(metric: str, labels: str = _OURS) -> tuple[tuple[str, str], ...]:
    return tuple((f"p{round(100 * q)}", _quantile(q, metric, labels)) for q in (0.5, 0.9, 0.99))


def _number(title: str, description: str, query: str, unit: str = "short", counted: str = "") -> Panel:
    return Panel(title, description, (("", query),), unit, "number", 4, counted=counted)


_DURATION = "hauberk_request_duration_seconds"
_QUICK = f'{_ASKED},le="0.25"'
_ALONE = f'{_OURS},le="1.0"'
_FAILED = f'{_ASKED},code=~"5.."'
_BAD_CONNECTIONS = f'{_OURS},reason=~"{"|".join(sorted(each.code for each in every_problem() if each.about_transport))}"'

_NOW = (
    _number("Gateways up", "Targets that answer Prometheus.", 'sum(up{job="hauberk"})', counted="gateways"),
    _number("Requests", "For predictions, every answer.", _rate("hauberk_requests_total", _ASKED), "reqps"),
    _number(
        "Failed",
        "5xx among them.",
        f"{_rate('hauberk_requests_total', _FAILED)} / ({_rate('hauberk_requests_total', _ASKED)} > 0)",
        "percentunit",
    ),
    _number("p99", "Of all requests for predictions.", _quantile(0.99, "hauberk_request_duration_seconds", _ASKED), "s"),
    _number("Images decided", "Decided on, answered or refused.", _rate("hauberk_predictions_total"), "ops", "images/s"),
    _number(
        "Versions served",
        "More than one for longer than a release takes: replicas disagree.",
        f"count(count by (model_version) (hauberk_build_info{{{_OURS}}}))",
        counted="versions",
    ),
)
_TRAFFIC = (
    Panel(
        "Requests by code",
        "For predictions. 499: the client left first.",
        (("{{code}}", _rate("hauberk_requests_total", _ASKED, "code")),),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Requests by route",
        "All routes, health checks too.",
        (("{{route}}", _rate("hauberk_requests_total", by="route")),),
        "reqps",
    ),
    Panel("Latency", "From the first byte to the answer.", _quantiles("hauberk_request_duration_seconds", _ASKED), "s"),
    Panel(
        "In flight and waiting",
        "Requests begun and not answered; images in the queue.",
        (
            ("requests in flight", f"sum(hauberk_requests_in_flight{{{_OURS}}})"),
            ("images waiting", f"sum(hauberk_queue_depth{{{_OURS}}})"),
        ),
        counted="requests, images",
    ),
    Panel(
        "Images",
        "By outcome.",
        (("{{outcome}}", _rate("hauberk_predictions_total", by="outcome")),),
        "ops",
        stacked=True,
        counted="images/s",
    ),
    Panel(
        "Refused by defence",
        "What each detector finds, by its mode: only `enforce` changes an answer.",
        (("{{defence}} ({{mode}})", _rate("hauberk_abstentions_total", by="defence, mode")),),
        "ops",
        counted="images/s",
    ),
)
_WORK = (
    Panel(
        "Stage, p99",
        "Queue: per request; the others: per wave of a batch.",
        (("{{stage}}", _quantile(0.99, "hauberk_stage_duration_seconds", by="stage")),),
        "s",
    ),
    Panel(
        "Stage, share of the worker's time",
        "1 is all of one worker: nothing more can be done.",
        (("{{stage}}", _rate("hauberk_stage_duration_seconds_sum", f'{_OURS},stage!="queue"', "stage")),),
        "percentunit",
        stacked=True,
    ),
    Panel(
        "Batch size, mean",
        "Images that began together in one step of the worker.",
        (("mean", _mean("hauberk_batch_size")),),
        counted="images",
    ),
    Panel(
        "Batches of more than one image",
        "Share of all batches. Near 0 the worker waits for images, near 1 images wait for the worker.",
        (("more than one", f"1 - {_rate('hauberk_batch_size_bucket', _ALONE)} / ({_rate('hauberk_batch_size_count')} > 0)"),),
        "percentunit",
    ),
    Panel(
        "Failures by stage",
        "Batches that raised; their requests got 500, or 502 to 504 where the classifier is on a model server.",
        (("{{stage}}", _rate("hauberk_stage_failures_total", by="stage")),),
        "ops",
        counted="batches/s",
    ),
    Panel(
        "Model server, calls",
        "By outcome, of a classifier on a model server: one call a step; nothing while its circuit is open.",
        (
            ("{{outcome}}", f"{_rate('hauberk_remote_calls_total', by='outcome')} > 0"),
            ("made again", f"{_rate('hauberk_remote_retries_total')} > 0"),
        ),
        "ops",
        counted="calls/s",
    ),
    Panel(
        "Model server, not asked",
        "Gateways whose circuit is open: their model server does not answer as ever, and they are not ready.",
        (("gateways", f"sum(hauberk_remote_circuit_open{{{_OURS}}})"),),
        counted="gateways",
    ),
    Panel(
        "Model server, time of a call",
        "With its retries.",
        _quantiles("hauberk_remote_call_duration_seconds"),
        "s",
    ),
    Panel("Memory", "Resident, of the worker.", (("{{instance}}", f"process_resident_memory_bytes{{{_OURS}}}"),), "bytes"),
    Panel(
        "Processor",
        "Of one processor.",
        (("{{instance}}", f"rate(process_cpu_seconds_total{{{_OURS}}}[$__rate_interval])"),),
        "percentunit",
    ),
)
_WHAT_COMES_IN = (
    Panel(
        "Entropy under overlays",
        "STRIP: a heap near 0 beside the usual one is a trigger.",
        (("{{le}}", _rate("hauberk_strip_entropy_bits_bucket", by="le")),),
        "short",
        "heatmap",
        12,
        counted="bits",
    ),
    Panel(
        "Distance the purifier moved images",
        "L2. Noise, adversarial or not, moves it up.",
        (("{{le}}", _rate("hauberk_purification_distance_bucket", by="le")),),
        "short",
        "heatmap",
        12,
        counted="L2 distance",
    ),
    Panel(
        "Entropy, mean",
        "Half an hour beside the day before.",
        (("30 min", "job:hauberk_strip_entropy_bits:mean30m"), ("1 day", "job:hauberk_strip_entropy_bits:mean1d")),
        counted="bits",
    ),
    Panel(
        "Distance, mean",
        "Half an hour beside the day before.",
        (("30 min", "job:hauberk_purification_distance:mean30m"), ("1 day", "job:hauberk_purification_distance:mean1d")),
        counted="L2 distance",
    ),
    Panel(
        "Overlays per image, mean",
        "STRIP stops early on images that are clearly clean; suspicious ones cost all overlays, a model call each.",
        (("mean", _mean("hauberk_strip_overlays")),),
        counted="overlays",
    ),
)
_REFUSALS = (
    Panel(
        "Images refused",
        "Part of all images; calibration allows one clean image in a hundred.",
        (("30 min", "job:hauberk_predictions:abstained_ratio_rate30m"),),
        "percentunit",
    ),
    Panel(
        "Found by each detector",
        "Over six hours, whether its mode enforces it or not.",
        (("{{defence}}", "job_defence:hauberk_abstentions:ratio_rate6h"),),
        "percentunit",
    ),
    Panel(
        "Answered images by class",
        "One class that swells: a trigger's target, or the world.",
        (("{{label}}", _rate("hauberk_predicted_class_total", by="label")),),
        "ops",
        stacked=True,
        counted="images/s",
    ),
    Panel(
        "Inputs turned away",
        "By reason, before anything is decoded or decided.",
        (("{{reason}}", f"{_rate('hauberk_rejected_inputs_total', by='reason')} > 0"),),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Keys and budgets",
        "401 no key, 403 switched off or a page of another site, 429 budget spent.",
        (("{{code}}", _rate("hauberk_requests_total", f'{_OURS},code=~"401|403|429"', "code")),),
        "reqps",
    ),
    Panel(
        "Audit log",
        "Lines written to it, and lines lost: any of those is a gap in the evidence.",
        (
            ("written", _rate("hauberk_audit_lines_total")),
            ("lost: {{reason}}", _rate("hauberk_audit_lines_lost_total", by="reason")),
        ),
        "ops",
        counted="lines/s",
    ),
    Panel(
        "Bad connections",
        "Heads or bodies that are slow, too long, or not of HTTP as it is spoken here.",
        (
            (
                "{{reason}}",
                _rate(
                    "hauberk_rejected_inputs_total",
                    _BAD_CONNECTIONS,
                    "reason",
                ),
            ),
        ),
        "reqps",
    ),
)
_WINDOWS = ("5m", "30m", "1h", "6h", "3d")


def _burn(kind: str, budget: str) -> tuple[tuple[str, str], ...]:
    return tuple((window, f"job:hauberk_requests:{kind}_ratio_rate{window} / {budget}") for window in _WINDOWS)


def _of_month(metric: str, labels: str = _ASKED) -> str:
    return f"sum(increase({metric}{{{labels}}}[30d]))"


_BUDGETS = (
    Panel(
        "Availability, burn rate",
        "1 spends the month's budget (0.1 % of requests may fail) in a month; alerts at 1, 6 and 14.4.",
        _burn("error", "0.001"),
        width=12,
        counted="burn rate",
    ),
    Panel(
        "Latency, burn rate",
        "1 spends the month's budget (1 % may take longer than 0.25 s) in a month.",
        _burn("slow", "0.01"),
        width=12,
        counted="burn rate",
    ),
    Panel(
        "Availability, budget left",
        "Of 30 days.",
        (
            (
                "left",
                f"1 - {_of_month('hauberk_requests_total', _FAILED)} / ({_of_month('hauberk_requests_total')} > 0) / 0.001",
            ),
        ),
        "percentunit",
    ),
    Panel(
        "Latency, budget left",
        "Of 30 days.",
        (
            (
                "left",
                f"1 - (1 - {_of_month(f'{_DURATION}_bucket', _QUICK)} / ({_of_month(f'{_DURATION}_count')} > 0)) / 0.01",
            ),
        ),
        "percentunit",
    ),
    Panel(
        "Alerts",
        "Pending and firing.",
        (("{{alertname}} {{alertstate}}", 'sum by (alertname, alertstate) (ALERTS{alertname=~"Hauberk.*"})'),),
        counted="alerts",
    ),
)
_BEHIND = (
    Panel("Requests", "What the ratios are of.", (("requests", "job:hauberk_requests:rate5m"),), "reqps"),
    Panel(
        "Failed, by code",
        "5xx only: 4xx are the client's own.",
        (("{{code}}", 'job_code:hauberk_requests:rate5m{code=~"5.."}'),),
        "reqps",
    ),
    Panel(
        "Latency",
        "Five minutes; the objective is 0.25 s for 99 %.",
        (("p50", "job:hauberk_request_duration_seconds:p50_5m"), ("p99", "job:hauberk_request_duration_seconds:p99_5m")),
        "s",
    ),
)

BOARDS = (
    Board(
        "hauberk-overview",
        "Hauberk: overview",
        "Traffic, errors, latency by stage, refusals, queue.",
        (("Now", _NOW), ("Traffic", _TRAFFIC), ("Work", _WORK)),
    ),
    Board(
        "hauberk-security",
        "Hauberk: security",
        "What comes in, what is refused, who is turned away.",
        (("What comes in", _WHAT_COMES_IN), ("Refusals", _REFUSALS)),
    ),
    Board(
        "hauberk-slo",
        "Hauberk: objectives",
        "Burn rates, budgets and alerts.",
        (("Budgets", _BUDGETS), ("Behind them", _BEHIND)),
    ),
)
