"""What a session can do in the lab, without HTTP: bring a classifier, start jobs on it, read what they found."""

from __future__ import annotations

import secrets
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab.errors import Refused
from lab.jobs import Queue, read_result
from lab.limits import LabLimits
from lab.offered import AttackedSet, PoisonedCopies, steal_budget, text, whole
from lab.scans import marks
from lab.scans.samples import ScannedSamples
from lab.state import LabJob, State, StoredSubject
from lab.subject import DECLARED, UNPACKED, Subject, is_zip
from lab.uploads import PREFIX, Uploads
from lab.warm import WarmWorker

EXAMPLE = "example"
EXAMPLE_RESULTS = Path(__file__).parent / "example"
KINDS = {
    "read": "Read what was brought",
    "attack": "Attack a set of images",
    "backdoors": "Train backdoored copies",
    "calibrate": "Fit the defences",
    "evaluate": "Evaluate every armour",
    "scan": "Look for poison",
    "steal": "Steal the classifier",
}
"""The jobs, by what a worker is asked for."""
ASKED = ("one", "armour")
"""What the warm worker answers."""
REPORT = "report.html"
_BUNDLE = "bundle"
_ROOT = Path(__file__).parents[1]


@dataclass
class Workbench:
    """The parts of a lab, and what can be done with them.

    Attributes:
        example: what everybody sees on the first visit.
        names_paths: whether a form may name files of this machine; only a lab on loopback lets it.
    """

    state: State
    uploads: Uploads
    queue: Queue
    warm: WarmWorker
    limits: LabLimits
    example: Subject
    names_paths: bool

    def subjects(self, session: str) -> list[StoredSubject]:
        """What a session can work on, the example last."""
        return [*self.state.subjects(session), self._example()]

    def subject(self, session: str, id: str) -> StoredSubject | None:  # noqa: A002
        """One of these."""
        return self._example() if id == EXAMPLE else self.state.subject(session, id)

    def subject_of(self, job: LabJob) -> StoredSubject | None:
        """What a job is about."""
        return self.subject(job.session, job.subject)

    def bring(self, session: str, form: Mapping[str, Any]) -> StoredSubject:
        """Take a classifier and data, and read them. Raises: Refused."""
        said = {name: value for name, value in form.items() if name != "title"}
        for field in ("model", "data"):
            said[field] = self._path(session, field, said.get(field, ""))
        subject = Subject.from_form(said)
        title = text(form, "title").strip() or f"{Path(subject.model).name} on {Path(subject.data).name}"
        made = self.state.add_subject(session, title[:120], subject)
        self.start(session, made, "read", {})
        return made

    def say(self, session: str, subject: StoredSubject, form: Mapping[str, Any]) -> None:
        """Say something else about a model or its pictures, and read them again. Raises: Refused."""
        if subject.id == EXAMPLE:
            raise Refused("", "the example stays as it is; bring a classifier of your own")
        before = subject.subject.as_json()
        kept = {name: value for name, value in form.items() if name in (*DECLARED, "split", "rows", "resize", "colours", "order")}
        changed = Subject.from_form({**before, **before["declared"], "declared": {}, **kept})
        self.state.change_subject(subject, changed)
        self.start(session, replace(subject, subject=changed), "read", {})

    def start(self, session: str, subject: StoredSubject, kind: str, form: Mapping[str, Any]) -> LabJob:
        """Queue a job. Raises: Refused."""
        if kind not in KINDS:
            raise Refused("", "expected a job of the list")
        options: dict[str, Any] = {}
        if kind == "attack":
            options = AttackedSet.from_form(form).as_json()
        elif kind == "backdoors":
            options = PoisonedCopies.from_form(form).as_json()
        elif kind == "steal":
            options = {"budget": steal_budget(form)}
        elif kind == "calibrate":
            options = {name: text(form, name) for name in ("detectors", "name")}
        return self.queue.add(subject, session, kind, options)

    async def ask(self, task: str, subject: StoredSubject, options: dict[str, Any]) -> dict[str, Any]:
        """The warm worker's answer. Raises: Refused."""
        if task not in ASKED:
            raise Refused("", "expected a question of the list")
        return await self.warm.ask(task, subject, options)

    async def drop(self, session: str, subject: StoredSubject) -> None:
        """Delete a subject with its jobs, results and uploads. Raises: Refused: the example."""
        if subject.id == EXAMPLE:
            raise Refused("", "the example stays")
        for job in self.state.jobs(session, subject.id):
            if not job.is_over:
                await self.queue.cancel(job)
        for id in self.state.drop_subject(subject):  # noqa: A001
            shutil.rmtree(self.queue.place(id), ignore_errors=True)
        others = {path for one in self.state.subjects(session) for path in (one.subject.model, one.subject.data)}
        for path in {subject.subject.model, subject.subject.data} - others:
            self.uploads.drop(session, Path(path))

    def try_bundle(self, session: str, subject: StoredSubject, job: LabJob) -> StoredSubject:
        """The bundle that a job wrote, as a subject of its own. Raises: Refused."""
        bundle = self.queue.place(job.id) / _BUNDLE
        if job.kind != "calibrate" or job.state != "done" or bundle.is_symlink() or not bundle.is_dir():
            raise Refused("", "expected a job that has written a bundle")
        spec = replace(subject.subject, model=str(self.uploads.keep(session, bundle)), declared={})
        made = self.state.add_subject(session, f"{subject.title}, defended"[:120], spec)
        self.start(session, made, "read", {})
        return made

    def mark(self, job: LabJob, form: Mapping[str, Any]) -> dict[str, int]:
        """Say of a sample of a scan whether it is poison; how many are marked and suspicious now. Raises: Refused."""
        result, row, poison = self._scanned(job), whole(form, "row"), form.get("poison")
        if not isinstance(poison, bool):
            raise Refused("", "expected a sample of this scan, and whether it is poison")
        said = marks.is_suspicious(self.queue.place(job.id) / marks.IS_CLEAN, row)
        found = self.state.marks(job.id)
        if poison != said and row not in found and len(found) >= marks.MARKS_AT_MOST:
            raise Refused("", f"expected at most {marks.MARKS_AT_MOST:,} marks of a scan; take some away first")
        self.state.mark(job.id, row, None if poison == said else poison)
        found = self.state.marks(job.id)
        return {"marked": len(found), "suspicious": marks.suspicious(result, found)}

    def sample(self, job: LabJob, row: int) -> dict[str, Any]:
        """A sample of a scan, and whether it is poison with the marks. Raises: Refused."""
        found = ScannedSamples(self.queue.place(job.id), self._scanned(job)).of_row(row)
        return {**asdict(found), "poison": self.state.marks(job.id).get(row, found.suspicious)}

    def picture(self, job: LabJob, row: int) -> bytes:
        """Its picture as PNG. Raises: Refused."""
        return ScannedSamples(self.queue.place(job.id), self._scanned(job)).picture(row)

    def is_clean(self, job: LabJob) -> bytes:
        """The is_clean.npy of a scan, with what was marked by hand. Raises: Refused."""
        self._scanned(job)
        return marks.is_clean(self.queue.place(job.id) / marks.IS_CLEAN, self.state.marks(job.id))

    def _scanned(self, job: LabJob) -> dict[str, Any]:
        result = self.queue.result(job.id) if job.kind == "scan" and job.state == "done" else None
        if result is None:
            raise Refused("", "expected a scan that is done")
        return result

    def latest(self, session: str, subject: StoredSubject, kind: str) -> LabJob | None:
        """The newest job of a kind."""
        return next((job for job in self.state.jobs(session, subject.id) if job.kind == kind), None)

    def found(self, session: str, subject: StoredSubject, kind: str) -> tuple[str, dict[str, Any]] | None:
        """The newest result of a kind, and the id of its files; the example has some before anybody asked."""
        for job in self.state.jobs(session, subject.id):
            if job.kind == kind and job.state == "done" and (result := self.queue.result(job.id)) is not None:
                return job.id, result
        shipped = read_result(EXAMPLE_RESULTS / kind) if subject.id == EXAMPLE else None
        return None if shipped is None else (f"{EXAMPLE}-{kind}", shipped)

    def files(self, session: str, id: str) -> Path | None:  # noqa: A002
        """The folder of a job's files, where it is this session's."""
        kind = id.removeprefix(f"{EXAMPLE}-")
        if kind != id:
            return EXAMPLE_RESULTS / kind if kind in KINDS else None
        job = self.state.job(session, id)
        # While a worker runs it can put a link where a file was looked for.
        return self.queue.place(id) if job is not None and job.is_over else None

    def reported(self, session: str, id: str) -> bool:  # noqa: A002
        """Whether a job wrote a report; what comes with Hauberk has none."""
        place = self.files(session, id)
        return place is not None and (place / REPORT).is_file()

    def expire(self) -> None:
        """Delete what is too old."""
        sessions, jobs = self.state.expire()
        for session in sessions:
            self.uploads.drop_session(session)
        for job in jobs:
            shutil.rmtree(self.queue.place(job), ignore_errors=True)
        self.uploads.expire()

    def command_lines(self, session: str, subject: StoredSubject) -> dict[str, str]:
        """What was clicked, for a shell: by job."""
        given, fitted = subject.subject, self.latest(session, subject, "calibrate")
        detectors = (fitted.options.get("detectors") if fitted else None) or "auto"
        scanned = given.command("scan", shown=self._shown, out="out/scan")
        lines = {
            "scan": scanned,
            "calibrate": given.command("calibrate", shown=self._shown, detectors=detectors, out="bundles/mine"),
        }
        if given.is_bundle:
            unpacking = f"{shlex.join(['unzip', '-n', self._shown(given.model)])} && " if is_zip(given.model) else ""
            lines["serve"] = f"{unpacking}hauberk serve --bundle={shlex.quote(self._shown(str(given.bundle)))}"
            lines["evaluate"] = given.command("evaluate", shown=self._shown, budget="quick", out="out/evaluation")
        else:
            lines["serve"] = "hauberk serve --bundle=bundles/mine"
        return lines

    def _shown(self, path: str) -> str:
        """A path for a command line: of an upload its name, and of what comes with Hauberk where it lies in its sources."""
        if self.uploads.holds(Path(path)):
            places = [one for one in Path(path).parents if one.name.endswith(UNPACKED)]
            return str(Path(path).relative_to(places[0])) if places else Path(path).name
        return str(Path(path).relative_to(_ROOT)) if _ROOT in Path(path).parents and Path.cwd() == _ROOT else path

    def _path(self, session: str, field: str, given: Any) -> Any:
        """The path that a field names: an upload's, or on loopback any."""
        if not isinstance(given, str) or not given.strip():
            return given
        given = given.strip()
        if given.startswith(PREFIX):
            return str(self.uploads.path(session, field, given))
        if not self.names_paths:
            raise Refused(field, "expected an upload: this lab is open to other machines, and reads none of its own files")
        return str(Path(given).expanduser().absolute())

    def _example(self) -> StoredSubject:
        return StoredSubject(EXAMPLE, "", "The bundled digits, a classifier from standard training", self.example)


def new_token() -> str:
    """What guards a lab from its start to its end."""
    return secrets.token_urlsafe(24)
