"""The `hauberk` command. Each command is a module of its own; this one wires them and turns errors into exit codes.

0 fine · 1 internal · 2 bad input, with one clear line · 3 a finding over its limit · 130 interrupted
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import typer

from hauberk.mistakes import missing_extra, sentence
from models.errors import InvalidInput, remote_cause
from models.printable import printable
from models.version import __version__

COMMANDS = ("serve", "train", "calibrate", "scan", "evaluate", "attack", "lab")
"""Each is a function of this name in a module of this name in `hauberk.commands`."""


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the command that the arguments ask for, or with all of them where they ask for none: importing what scan
    and evaluate need takes longer than a server takes to start."""
    app = typer.Typer(
        name="hauberk",
        help="A model-serving gateway with defence middleware for image classifiers.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [asked] if asked in COMMANDS else COMMANDS:
        app.command()(getattr(import_module(f"hauberk.commands.{name}"), name))
    app.callback(invoke_without_command=True)(_options)
    return app


def _options(context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = app_for(sys.argv[1:])(standalone_mode=False)
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
    """Say what ended a command, and its exit code: a model server's fault and a missing package are bad input, anything else is ours."""
    remote = remote_cause(failure)
    missing = missing_extra(failure) if isinstance(failure, ModuleNotFoundError) else None
    if remote is not None:
        missing = f"{printable(remote)}; try again when the model server answers"
    if missing is not None:
        print(f"hauberk: {missing}", file=sys.stderr)
        return 2
    print(*map(printable, "".join(traceback.format_exception(failure)).splitlines()), sep="\n", file=sys.stderr)
    print("hauberk: internal error; please report it with the lines above", file=sys.stderr)
    return 1
