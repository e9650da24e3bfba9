"""A worker's loop: read a request, do it, answer; what is refused is a sentence, and what fails goes to the log."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lab.errors import Refused
from lab.subject import Subject
from models.errors import HauberkError, InvalidInput
from models.progress import Progress


@dataclass(frozen=True)
class Asked:
    """What a worker is asked.

    Attributes:
        options: of the task, as the visitor chose them: checked by the task.
        out: the folder that its files go into.
        progress: told how far it is.
    """

    subject: Subject
    options: Mapping[str, Any]
    out: Path
    progress: Progress


Task = Callable[[Asked], dict[str, Any]]


class AnotherReading(InvalidInput):
    """A model that fits better when its images are read in another way; `proposal` says it as fields of the form."""

    def __init__(self, sentence: str, proposal: Mapping[str, str]) -> None:
        super().__init__(sentence)
        self.proposal = dict(proposal)


def serve(tasks: Mapping[str, Task], requests: IO[str], answers: IO[str]) -> None:
    """Answer every request until there are no more."""

    def say(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def progress(what: str, done: int, of: int) -> None:
        say({"progress": [what, int(done), int(of)]})

    for line in requests:
        say(answered(tasks, json.loads(line), progress))


def answered(tasks: Mapping[str, Task], asked: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The last message to one request."""
    try:
        subject = Subject.from_form(asked["subject"])
        return {"result": tasks[asked["task"]](Asked(subject, asked["options"], Path(asked["out"]), progress))}
    except AnotherReading as failure:
        return {"refused": {"field": "model", "sentence": str(failure), "proposal": failure.proposal}}
    except Refused as failure:
        return {"refused": {"field": failure.field, "sentence": str(failure)}}
    except HauberkError as failure:
        return {"refused": {"field": "", "sentence": str(failure)}}
    except OSError as failure:
        traceback.print_exc()
        return {
            "refused": {"field": "", "sentence": f"A file cannot be read or written: {(failure.strerror or 'unknown').lower()}."}
        }
    except MemoryError:
        return {"refused": {"field": "", "sentence": "It takes more memory than there is; try fewer images."}}
    except Exception:  # noqa: BLE001  # an uploaded model may raise anything; the log says what
        traceback.print_exc(file=sys.stderr)
        return {"failed": "internal"}
