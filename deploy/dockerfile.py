"""A parser of Dockerfiles, complete enough to execute ours without a Docker engine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True)
class Instruction:
    """One instruction, continuation lines joined, comments dropped."""

    name: str
    text: str

    @property
    def exec_form(self) -> list[str] | None:
        """The words of a JSON list; None for the shell form."""
        if not self.text.startswith("["):
            return None
        words: list[str] = json.loads(self.text)
        return words

    @property
    def pairs(self) -> dict[str, str]:
        """Names and values of ENV, LABEL and ARG."""
        return dict(word.partition("=")[::2] for word in shlex.split(self.text))


@dataclass(frozen=True)
class Stage:
    """The instructions from one FROM to the next."""

    image: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        """The instructions of this name."""
        return [each for each in self.instructions if each.name == name]

    def last(self, name: str) -> Instruction:
        """The last instruction of this name, which Docker applies. Raises: IndexError: there is none."""
        return self.all(name)[-1]


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[Stage] = []
    found: list[Instruction] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, text = line.partition(" ")
        if name.upper() == "FROM":
            image, _, alias = text.partition(" AS ")
            found = []
            stages.append(Stage(image, alias or str(len(stages)), ()))
        else:
            found.append(Instruction(name.upper(), text.strip()))
        stages[-1] = Stage(stages[-1].image, stages[-1].name, tuple(found))
    return stages


def substituted(text: str, variables: dict[str, str]) -> str:
    """The text with $NAME and ${NAME} replaced; unknown names become empty, as in Docker."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)
