"""hauberk attack: red-team a running gateway through its public routes, and report the wrong answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from attacks.gateway.remote import GatewayClassifier
from evaluation.red_team.attack_report import summary
from evaluation.red_team.campaign import ATTACKS
from evaluation.red_team.red_team import IMAGES, REPORT, RedTeamPlan, red_team
from hauberk.commands.data import AsPictures, labelled_as, origin, read_data
from hauberk.commands.options import (
    ColoursOption,
    ResizeOption,
    RowsOption,
    SeedOption,
    SplitOption,
    check_writable,
    progress_bar,
)
from models.errors import InvalidInput
from models.files import read_file
from models.printable import printable

KEY_VARIABLE = "GATEWAY_API_KEY"
_OVER_THE_LIMIT, _INTERRUPTED = 3, 130
_KEY_BYTES = 1 << 12


def attack(
    url: Annotated[str, typer.Argument(metavar="URL", help="The gateway's root, http://HOST:PORT.")],
    data: Annotated[
        Path,
        typer.Option(help="Labelled images, .npz or pictures in a folder a class: those attacked, then those the attacker owns."),
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.json and adversarial.npz.")],
    attacks: Annotated[str, typer.Option("--attack", help=f"all, or of {', '.join(ATTACKS)}, with commas between.")] = "all",
    max_queries: Annotated[int, typer.Option(min=1, help="Images sent to the gateway, in all.")] = 20_000,
    images: Annotated[int, typer.Option(min=1, help="How many images are attacked: the first.")] = 50,
    split: SplitOption = "test",
    rows: RowsOption = None,
    resize: ResizeOption = None,
    colours: ColoursOption = None,
    eps: Annotated[
        float | None, typer.Option(help="L-inf radius in [0, 1]; 0.3 for grey, 8/255 for colour when not given.")
    ] = None,
    seed: SeedOption = 0,
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
    """Attack a running gateway that is yours, with a bounded number of queries, and report the wrong answers.

    Example: hauberk attack http://127.0.0.1:3000 --attack all --data models/data/mnist.npz --out out/red-team --fail-above 0.1
    """
    plan = RedTeamPlan(
        attacks=_names(attacks),
        images=images,
        eps=eps,
        seed=seed,
        max_queries=max_queries,
        patience_s=patience,
        fail_above=fail_above,
        fail_above_agreement=fail_above_agreement,
        origin=replace(origin(data, split, None, 0), rows=rows),
    )
    key = _key(api_key_file)
    given = read_data(data, split, rows, AsPictures(resize, colours))
    check_writable(out)
    with (
        GatewayClassifier(url, api_key=key, patience_s=patience) as gateway,
        _ctrl_c_stops(gateway),
        progress_bar("queries") as progress,
    ):
        report = red_team(gateway, labelled_as(data, given, gateway.labels), plan=plan, out=out, progress=progress)
    print(summary(report))
    print(printable(f"written to {out / REPORT} and {out / IMAGES}"))
    if report.status == "gateway_gone":
        raise InvalidInput(str(report.reason))
    if report.status == "interrupted":
        raise typer.Exit(_INTERRUPTED)
    if report.findings:
        raise typer.Exit(_OVER_THE_LIMIT)


def _names(attacks: str) -> tuple[str, ...]:
    wanted = [name.strip() for name in attacks.split(",") if name.strip()]
    if wanted == ["all"]:
        return tuple(ATTACKS)
    if not wanted or not set(wanted) <= set(ATTACKS):
        raise InvalidInput(f"expected --attack all or of {', '.join(ATTACKS)}, got {attacks!r}")
    return tuple(wanted)


def _key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return read_file(file, at_most=_KEY_BYTES).decode("ascii").strip()
    except OSError as failure:
        raise InvalidInput(f"--api-key-file {file} cannot be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"expected a key in ASCII in --api-key-file {file}") from failure


@contextmanager
def _ctrl_c_stops(gateway: GatewayClassifier) -> Iterator[None]:
    """The first Ctrl-C ends the attacks with what they have, the second ends the process."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        gateway.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
