"""Every option that a message names exists in every command that can give the message, or the message names the command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from hauberk.main import app_for
from tests.test_layers import graph, modules

COMMANDS = ("train", "calibrate", "scan", "evaluate", "attack", "serve", "lab")

_OF_A_MODEL = {"calibrate", "scan", "train"}  # the commands that are given a model, and options that say how it reads images

GIVEN_IN: dict[tuple[str, str], set[str]] = {
    ("defences.calibration.fits", "--detectors"): {"calibrate"},  # evaluate fits STRIP only, and names it itself
    ("defences.calibration.fits", "--patch"): {"calibrate"},
    ("defences.detectors.mask_set", "--patch"): {"calibrate", "train"},
    # train refuses the formats whose files name classes before it opens them, and takes no names from the user
    ("hauberk.commands.classifier_options", "--labels"): {"calibrate", "scan"},
    ("hauberk.commands.declaration", "--labels"): {"calibrate", "scan"},
    # the others open models of bundles, which have one output and a declared layout, and twins, whose layouts are tried
    ("models.engines.keras", "--output"): _OF_A_MODEL,
    ("models.engines.keras_input", "--layout"): _OF_A_MODEL,
    ("models.engines.onnx_checks", "--output"): _OF_A_MODEL,
    # attack has answers only, train refuses what is no Keras model before
    ("models.engines.twins.capabilities", "--gradients"): {"calibrate", "evaluate", "scan"},
    # train is given images, and their size with them
    ("hauberk.commands.classifier_options", "--resize"): {"calibrate", "scan"},
    # a twin is read in each of these ways, and none is advised
    **{("models.input_readings", option): _OF_A_MODEL for option in ("--channels", "--input-range", "--layout", "--preset")},
}
"""Messages that fewer commands give than import their module: the commands that can."""

NO_OPTIONS_OF_OURS = {
    ("evaluation.reporting.plots", "--line"),  # of a style sheet
    ("evaluation.reporting.plots", "--series-"),
    ("hauberk.commands.serve", "--timeout-graceful-shutdown"),  # of BentoML's command line
}

_OPTION = re.compile(r"(?:hauberk (?P<command>[a-z]+)[^;]*?)?(?P<option>--[a-z][a-z-]+)")


def options() -> dict[str, set[str]]:
    """The options of each command."""
    group = typer.main.get_command(app_for(()))
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()  # type: ignore[attr-defined]  # typer's group
    }


def messages(source: str) -> Iterator[str]:
    """The texts of a module that are neither docstrings nor an option's declaration; what an f-string inserts is {}."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)  # a docstring
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Option", "typer.Argument"):
            skipped.update(ast.walk(node))
        elif isinstance(node, ast.JoinedStr):
            skipped.update(child for child in ast.walk(node) if child is not node)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def advice(file: Path) -> Iterator[tuple[str | None, str]]:
    """(the command a message names before the option, or None; the option) of every option that a module's messages name."""
    yield from _advice_in(file.read_text(encoding="utf-8"))


def _advice_in(source: str) -> Iterator[tuple[str | None, str]]:
    for message in messages(source):
        for found in _OPTION.finditer(message):
            yield found["command"], found["option"]


def reached() -> dict[str, set[str]]:
    """The commands that import each module, directly or not."""
    edges = graph()
    commands: dict[str, set[str]] = {}
    for command in COMMANDS:
        todo = [f"hauberk.commands.{command}"]
        for module in todo:
            if command not in commands.setdefault(module, set()):
                commands[module].add(command)
                todo += edges[module]
    return commands


@cache
def named() -> list[tuple[str, str, str]]:
    """(module, option, command) of every option that a message names and every command that can give the message."""
    found = []
    for module, commands in sorted(reached().items()):
        for command, option in advice(modules()[module]):
            if (module, option) not in NO_OPTIONS_OF_OURS:
                given_in = {command} if command is not None else GIVEN_IN.get((module, option), commands)
                found += [(module, option, one) for one in sorted(given_in)]
    return found


def test_every_option_that_a_message_names_exists_in_every_command_that_gives_the_message() -> None:
    known = options()
    assert [(module, option, command) for module, option, command in named() if option not in known.get(command, set())] == []


def test_messages_are_found_with_the_commands_that_give_them() -> None:
    assert ("models.input_readings", "--input-range", "train") in named()
    assert [command for module, _, command in named() if module == "models.engines.remote.tensors"] == [
        "calibrate"
    ]  # it names it
    assert ("evaluation.red_team.campaign", "--max-queries", "attack") in named()
    assert len({option for _, option, _ in named()}) > 20


@pytest.mark.parametrize("place", [*GIVEN_IN, *NO_OPTIONS_OF_OURS])
def test_an_exception_of_this_test_is_still_one(place: tuple[str, str]) -> None:
    module, option = place
    assert option in {found for _, found in advice(modules()[module])}
    if place in GIVEN_IN:
        assert GIVEN_IN[place] < reached()[module]


def test_an_option_that_a_command_lacks_would_be_found() -> None:
    text = 'raise InvalidInput(f"expected {x}; say --moat={y} or hauberk calibrate --labels=a")\n"""--docstring"""\n'
    assert list(_advice_in(text)) == [(None, "--moat"), ("calibrate", "--labels")]
