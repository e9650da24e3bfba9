"""The `hauberk` command. Each command is a module of its own; this one wires them and turns errors into exit codes.

0 fine · 1 internal · 2 bad input, with one clear line · 3 a finding over its limit · 130 interrupted
"""

from __future__ import annotations

import sys
import traceback

import typer

from hauberk.commands.attack import attack
from hauberk.commands.calibrate import calibrate
from hauberk.commands.evaluate import evaluate
from hauberk.commands.scan import scan
from hauberk.commands.serve import serve
from hauberk.commands.train import train
from hauberk.mistakes import sentence
from models.errors import InvalidInput, remote_cause
from models.printable import printable
from models.version import __version__

app = typer.Typer(
    name="hauberk",
    help="A model-serving gateway with defence middleware for image classifiers.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (serve, train, calibrate, scan, evaluate, attack):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except typer.TyperException as mistake:  # an unknown command, option or value
        print(f"hauberk: {printable(sentence(mistake))}", file=sys.stderr)
        code = 2
    except InvalidInput as mistake:
        print(f"hauberk: {printable(mistake)}", file=sys.stderr)
        code = 2
    except Exception as failure:  # noqa: BLE001  # the last resort: say that it is ours, and how to tell us
        code = _failed(failure)
    sys.exit(code if isinstance(code, int) else 0)


def _failed(failure: Exception) -> int:
    """Say what went wrong, and the exit code: a model server's fault is bad input, anything else is ours."""
    remote = remote_cause(failure)
    if remote is not None:
        print(f"hauberk: {printable(remote)}; try again when the model server answers", file=sys.stderr)
        return 2
    print(*map(printable, traceback.format_exc().splitlines()), sep="\n", file=sys.stderr)
    print("hauberk: internal error; please report it with the lines above", file=sys.stderr)
    return 1
