"""hauberk attack: red-team a running gateway through its public routes, and say what got through."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from attacks.attack import check_eps
from attacks.gateway.remote import RemoteClassifier
from evaluation.red_team import attack_report
from evaluation.red_team.attack_report import Finding, Report
from evaluation.red_team.campaign import ATTACKS, Campaign
from hauberk.commands.options import SEED_AT_MOST, check_writable, progress_bar, read_data
from models.datasets import Dataset
from models.errors import InvalidInput
from models.version import __version__

REPORT, IMAGES, KEY_VARIABLE = "report.json", "adversarial.npz", "GATEWAY_API_KEY"
_EPS_GREY, _EPS_COLOUR = 0.3, 8 / 255
_OVER_THE_LIMIT, _INTERRUPTED = 3, 130


def attack(
    url: Annotated[str, typer.Argument(metavar="URL", help="The gateway's root, http://HOST:PORT.")],
    data: Annotated[
        Path, typer.Option(help="Images and their labels, .npz: those attacked, and after them those the attacker owns.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.json and adversarial.npz.")],
    attacks: Annotated[str, typer.Option("--attack", help=f"all, or of {', '.join(ATTACKS)}, with commas between.")] = "all",
    max_queries: Annotated[int, typer.Option(min=1, help="Images sent to the gateway, in all.")] = 20_000,
    images: Annotated[int, typer.Option(min=1, help="How many images are attacked: the first.")] = 50,
    split: Annotated[str, typer.Option(help="Which half of a file with x_train and x_test: train or test.")] = "test",
    rows: Annotated[str | None, typer.Option(help="Only the rows START:STOP.")] = None,
    eps: Annotated[
        float | None, typer.Option(help="L-inf radius in [0, 1]; 0.3 for grey, 8/255 for colour when not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_AT_MOST, help="Of every attack.")] = 0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a busy gateway, in all.")] = 120.0,
    fail_above: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 3 when a larger share of the attacked images is answered wrong.")
    ] = None,
    fail_above_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 3 when a stolen copy agrees with the gateway on a larger share.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key the gateway asks for; else {KEY_VARIABLE} in the environment.")
    ] = None,
) -> None:
    """Attack a running gateway that is yours, with a bounded number of queries, and say what got through.

    Example: hauberk attack http://127.0.0.1:3000 --attack all --data models/data/mnist.npz --out out/red-team --fail-above 0.1
    """
    names, key = _names(attacks), _key(api_key_file)
    given = read_data(data, split, rows)
    check_writable(out)
    with RemoteClassifier(url, api_key=key, patience_s=patience) as gateway:
        _check(given, gateway, images)
        radius = eps if eps is not None else (_EPS_GREY if gateway.input_shape[2] == 1 else _EPS_COLOUR)
        check_eps(radius, "attack")
        options = attack_report.Options(
            attacks=names,
            data=data.name,
            split=split,
            rows=rows,
            images=images,
            eps=radius,
            seed=seed,
            max_queries=max_queries,
            patience_s=patience,
            fail_above=fail_above,
            fail_above_agreement=fail_above_agreement,
        )
        report = _run(gateway, given, options, out)
    print(attack_report.summary(report))
    print(f"written to {out / REPORT} and {out / IMAGES}")
    if report.status == "gateway_gone":
        raise InvalidInput(str(report.reason))
    if report.status == "interrupted":
        raise typer.Exit(_INTERRUPTED)
    if report.findings:
        raise typer.Exit(_OVER_THE_LIMIT)


def _run(gateway: RemoteClassifier, given: Dataset, options: attack_report.Options, out: Path) -> Report:
    """All attacks, and both files after each."""
    campaign = Campaign(
        gateway=gateway,
        attacked=given.take(slice(0, options.images)),
        others=given.take(slice(options.images, len(given))),
        eps=options.eps,
        seed=options.seed,
        queries=options.max_queries,
    )
    campaign.check_budget(options.attacks)
    with progress_bar() as campaign.progress, _ctrl_c_stops(gateway):
        for _ in campaign.run(options.attacks):
            _write(campaign, options, out)
    return _write(campaign, options, out)


def _names(attacks: str) -> list[str]:
    wanted = [name.strip() for name in attacks.split(",") if name.strip()]
    if wanted == ["all"]:
        return list(ATTACKS)
    if not wanted or not set(wanted) <= set(ATTACKS):
        raise InvalidInput(f"expected --attack all or of {', '.join(ATTACKS)}, got {attacks!r}")
    return [name for name in ATTACKS if name in wanted]


def _key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as failure:
        raise InvalidInput(f"--api-key-file {file} cannot be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"expected a key in ASCII in --api-key-file {file}") from failure


def _check(data: Dataset, gateway: RemoteClassifier, images: int) -> None:
    """Whether these data are the gateway's. Raises: InvalidInput."""
    shape, classes = data.images.shape[1:], len(gateway.labels)
    if shape != gateway.input_shape:
        raise InvalidInput(f"expected images of the gateway's shape {gateway.input_shape}, got {shape}")
    if int(data.labels.max()) >= classes:
        raise InvalidInput(f"expected labels below {classes}, the classes of the gateway, got {int(data.labels.max())}")
    if len(data) < images:
        raise InvalidInput(f"expected at least {images} images to attack, got {len(data)}; attack fewer with --images")


@contextmanager
def _ctrl_c_stops(gateway: RemoteClassifier) -> Iterator[None]:
    """The first Ctrl-C ends the attacks with what they have, the second ends the process."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        gateway.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(campaign: Campaign, options: attack_report.Options, out: Path) -> Report:
    """Both files, whole or not at all."""
    report = _report(campaign, options)
    arrays: dict[str, Any] = {"given": campaign.attacked.images, "labels": campaign.attacked.labels}
    for name, images in campaign.images.items():
        arrays |= {f"images_{name}": images, f"answers_{name}": campaign.answers[name]}
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as scratch:
        draft = Path(scratch)
        np.savez_compressed(draft / IMAGES, **arrays)
        (draft / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for name in (IMAGES, REPORT):
            (draft / name).replace(out / name)
    return report


def _report(campaign: Campaign, options: attack_report.Options) -> Report:
    gateway, served, traffic = campaign.gateway, campaign.gateway.served, campaign.gateway.traffic
    wrong = campaign.worst_case_wrong
    status, reason = campaign.status
    report = Report(
        software=__version__,
        gateway=attack_report.Gateway(
            url=gateway.url,
            model=served.model,
            model_version=served.version,
            input_shape=served.input_shape,
            classes=len(served.labels),
            defences=[attack_report.Defence(name=name, mode=mode) for name, mode in served.defences],
        ),
        options=options,
        status=status,
        reason=reason,
        queries=attack_report.Queries(
            spent=traffic.queries,
            refused=traffic.refused,
            requests=traffic.requests,
            turned_away=traffic.turned_away,
            waited_s=round(traffic.waited_s, 3),
            latency_p50_s=_percentile(traffic.latency_s, 50),
            latency_p99_s=_percentile(traffic.latency_s, 99),
        ),
        evasions=campaign.evasions,
        worst_case_wrong=int(wrong.sum()),
        worst_case_wrong_share=float(wrong.mean()),
        thefts=campaign.thefts,
        findings=[],
    )
    return report.model_copy(update={"findings": _findings(report)})


def _findings(report: Report) -> list[Finding]:
    limit, agreement = report.options.fail_above, report.options.fail_above_agreement
    findings = []
    if limit is not None:
        what = "share of attacked images answered wrong"
        findings.append(Finding(what=what, measured=report.worst_case_wrong_share, limit=limit))
    if agreement is not None:
        findings += [
            Finding(what=f"agreement of the copy ({theft.attack})", measured=theft.agreement, limit=agreement)
            for theft in report.thefts
            if theft.agreement is not None
        ]
    return [finding for finding in findings if finding.measured > finding.limit]


def _percentile(seconds: list[float], percent: float) -> float | None:
    return round(float(np.percentile(seconds, percent)), 6) if seconds else None
