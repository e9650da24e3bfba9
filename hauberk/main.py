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
from models.errors import InvalidInput
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
    except Exception:  # noqa: BLE001  # the last resort: say that it is ours, and how to tell us
        print(*map(printable, traceback.format_exc().splitlines()), sep="\n", file=sys.stderr)
        print("hauberk: internal error; please report it with the lines above", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
