"""The lab over HTTP: pages for people, and the few paths that their scripts ask.

GET  /                              what there is to work on, and the form that brings a classifier
GET  /s/{id}                        what was read;  /s/{id}/attack, /defend, /poison, /steal, /take: the steps after it
POST /bring, /s/{id}/say            a form as JSON; answered with where to go, or with a sentence for a field
POST /s/{id}/jobs/{kind}, /drop     start a job; delete the subject
POST /s/{id}/ask/{task}             an answer of the warm worker
PUT  /uploads/{field}?name=         a file
GET  /jobs/{id}, /jobs/{id}.json    a job;  POST /jobs/{id}/cancel, /bundle, /mark;  GET /jobs/{id}/files/{name}
GET  /jobs/{id}/is_clean.npy        what a scan found, with the marks;  /jobs/{id}/samples/{row}.json, .png: one of its samples
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lab.charts import agreement, robust_accuracy
from lab.errors import Refused
from lab.jobs import time_left
from lab.offered import (
    ATTACKS,
    BACKDOORS,
    BUDGETS,
    IMAGES_AT_MOST,
    ONE_IMAGE,
    PARAMETERS,
    STOLEN_QUERIES,
    STRENGTH_AT_MOST,
    TRAINED_ON,
    TRIGGERS,
)
from lab.rendering import MEDIA_TYPES, Pages, duration
from lab.scans import marks
from lab.scans.page import ShownScan, shown_scan
from lab.scans.samples import PIXELS_AT_MOST
from lab.sentences import field_of, sentence
from lab.state import LabJob, StoredSubject
from lab.subject import CHOICES, DECLARED
from lab.workbench import EXAMPLE, KINDS, Workbench

_FILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,80}\.(png|zip|json|html|npy)")
_DOWNLOADED = (".zip", ".json", ".npy")
# A report is a file of its own: its drawings have their colours in it, and it runs nothing.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_NOT_FOUND = "There is no such page in this lab, or it is another session's, or it was deleted by age."

Answer = Callable[["Lab", Request], Awaitable[Response]]


def _refusing(answer: Answer) -> Answer:
    """A refusal becomes JSON with the field and the sentence."""

    @wraps(answer)
    async def answered(self: Lab, request: Request) -> Response:
        try:
            return await answer(self, request)
        except Refused as failure:
            told = {"field": failure.field, "sentence": sentence(str(failure))}
            return JSONResponse(told, HTTPStatus.UNPROCESSABLE_ENTITY)

    return answered


class Lab:
    """The routes, over a workbench."""

    def __init__(self, workbench: Workbench) -> None:
        self._bench, self._pages = workbench, Pages()

    def application(self) -> Starlette:
        """The ASGI application; it has to stand behind `lab.guard.Guard`."""
        routes = [
            Route("/", self.home),
            Route("/static/{name}", self.part),
            Route("/bring", self.bring, methods=["POST"]),
            Route("/uploads/{field}", self.upload, methods=["PUT"]),
            Route("/s/{id}", self.read),
            Route("/s/{id}/attack", self.attack),
            Route("/s/{id}/defend", self.defend),
            Route("/s/{id}/poison", self.poison),
            Route("/s/{id}/steal", self.steal),
            Route("/s/{id}/take", self.take),
            Route("/s/{id}/say", self.say, methods=["POST"]),
            Route("/s/{id}/drop", self.drop, methods=["POST"]),
            Route("/s/{id}/jobs/{kind}", self.start, methods=["POST"]),
            Route("/s/{id}/ask/{task}", self.ask, methods=["POST"]),
            Route("/jobs/{id}.json", self.job_json),
            Route("/jobs/{id}", self.job),
            Route("/jobs/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/jobs/{id}/bundle", self.try_bundle, methods=["POST"]),
            Route("/jobs/{id}/mark", self.mark, methods=["POST"]),
            Route("/jobs/{id}/is_clean.npy", self.is_clean),
            Route("/jobs/{id}/samples/{row:int}.json", self.sample),
            Route("/jobs/{id}/samples/{row:int}.png", self.picture),
            Route("/jobs/{id}/files/{name}", self.file),
        ]
        handlers: dict[Any, Any] = {HTTPException: self._http_error, Exception: self._mistake}
        return Starlette(routes=routes, exception_handlers=handlers)

    def message(self, status: int, title: str, told: str) -> Response:
        """A page with one sentence."""
        return HTMLResponse(self._pages.render("message.html", title=title, sentence=told, subject=None, step=""), status)

    async def home(self, request: Request) -> Response:
        """GET /."""
        session = request.scope["session"]
        subjects = self._bench.subjects(session)
        jobs = {one.id: self._bench.latest(session, one, "read") for one in subjects}
        example = subjects[-1]
        return self._page(
            "home.html",
            subjects=subjects[:-1],
            jobs=jobs,
            example=example,
            read=self._bench.found(session, example, "read"),
            attacked=self._bench.found(session, example, "attack"),
            names_paths=self._bench.names_paths,
        )

    async def part(self, request: Request) -> Response:
        """GET /static/NAME."""
        name = request.path_params["name"]
        if name not in self._pages.parts:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        headers = {"cache-control": "no-cache", "content-type": f"{MEDIA_TYPES[Path(name).suffix]}; charset=utf-8"}
        return Response(self._pages.parts[name], headers=headers)

    async def read(self, request: Request) -> Response:
        """GET /s/ID: what was read."""
        session, subject = request.scope["session"], self._subject(request)
        said = {**subject.subject.as_json(), **{name: subject.subject.declared.get(name, "") for name in DECLARED}}
        job = self._bench.latest(session, subject, "read")
        found = self._bench.found(session, subject, "read")
        return self._page(
            "read.html", subject=subject, step="read", job=self._shown(job), found=found, said=said, choices=CHOICES
        )

    async def attack(self, request: Request) -> Response:
        """GET /s/ID/attack."""
        session, subject = request.scope["session"], self._subject(request)
        found = self._bench.found(session, subject, "attack")
        titles = {name: one.title for name, one in ATTACKS.items()}
        chart = None if found is None else robust_accuracy(found[1], titles)
        return self._page(
            "attack.html",
            subject=subject,
            step="attack",
            job=self._shown(self._bench.latest(session, subject, "attack")),
            found=found,
            chart=chart,
            attacks=ATTACKS,
            triggers=TRIGGERS,
            titles=titles,
            backdoors=BACKDOORS,
            trained_on=TRAINED_ON,
            copying=self._shown(self._bench.latest(session, subject, "backdoors")),
            copies=self._bench.found(session, subject, "backdoors"),
            read=self._bench.found(session, subject, "read"),
            images_at_most=IMAGES_AT_MOST,
            strength_at_most=STRENGTH_AT_MOST,
            budgets=BUDGETS,
        )

    async def defend(self, request: Request) -> Response:
        """GET /s/ID/defend."""
        session, subject = request.scope["session"], self._subject(request)
        read = self._bench.found(session, subject, "read")
        found = self._bench.found(session, subject, "evaluate")
        return self._page(
            "defend.html",
            subject=subject,
            step="defend",
            read=read,
            bundle=None if read is None else read[1]["bundle"],
            attacks=ONE_IMAGE,
            parameters=PARAMETERS,
            strength_at_most=STRENGTH_AT_MOST,
            job=self._shown(self._bench.latest(session, subject, "evaluate")),
            found=found,
            reported=found is not None and self._bench.reported(session, found[0]),
        )

    async def poison(self, request: Request) -> Response:
        """GET /s/ID/poison."""
        session, subject = request.scope["session"], self._subject(request)
        job = self._shown(self._bench.latest(session, subject, "scan"))
        found = self._bench.found(session, subject, "scan")
        marked = {} if found is None else self._bench.state.marks(found[0])
        return self._page(
            "poison.html",
            subject=subject,
            step="poison",
            job=job,
            found=found,
            shown=None if found is None else self._shown_scan(*found, request),
            marked=marked,
            suspicious=0 if found is None else marks.suspicious(found[1], marked),
            pixels_at_most=PIXELS_AT_MOST,
        )

    async def steal(self, request: Request) -> Response:
        """GET /s/ID/steal."""
        session, subject = request.scope["session"], self._subject(request)
        found = self._bench.found(session, subject, "steal")
        job = self._shown(self._bench.latest(session, subject, "steal"))
        chart = None if found is None else agreement(found[1])
        return self._page("steal.html", subject=subject, step="steal", job=job, found=found, chart=chart, budgets=STOLEN_QUERIES)

    async def take(self, request: Request) -> Response:
        """GET /s/ID/take."""
        session, subject = request.scope["session"], self._subject(request)
        evaluated = self._bench.found(session, subject, "evaluate")
        return self._page(
            "take.html",
            subject=subject,
            step="take",
            job=self._shown(self._bench.latest(session, subject, "calibrate")),
            found=self._bench.found(session, subject, "calibrate"),
            evaluated=evaluated,
            reported=evaluated is not None and self._bench.reported(session, evaluated[0]),
            lines=self._bench.command_lines(session, subject),
            read=self._bench.found(session, subject, "read"),
        )

    async def job(self, request: Request) -> Response:
        """GET /jobs/ID."""
        job = self._job(request)
        subject = self._bench.subject_of(job)
        if subject is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return self._page("job.html", subject=subject, step="", job=self._shown(job), log=self._bench.queue.log(job.id))

    async def job_json(self, request: Request) -> Response:
        """GET /jobs/ID.json: how far it is."""
        return JSONResponse(self._shown(self._job(request)))

    async def file(self, request: Request) -> Response:
        """GET /jobs/ID/files/NAME."""
        name, place = request.path_params["name"], self._bench.files(request.scope["session"], request.path_params["id"])
        path = None if place is None or not _FILE.fullmatch(name) else place / name
        if path is None or path.is_symlink() or not path.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        headers = {"content-security-policy": _REPORT_POLICY} if path.suffix == ".html" else {}
        return FileResponse(path, headers=headers, filename=name if path.suffix in _DOWNLOADED else None)

    @_refusing
    async def bring(self, request: Request) -> Response:
        """POST /bring."""
        made = self._bench.bring(request.scope["session"], await self._form(request))
        return JSONResponse({"location": f"/s/{made.id}"})

    @_refusing
    async def say(self, request: Request) -> Response:
        """POST /s/ID/say."""
        subject = self._subject(request)
        self._bench.say(request.scope["session"], subject, await self._form(request))
        return JSONResponse({"location": f"/s/{subject.id}"})

    @_refusing
    async def drop(self, request: Request) -> Response:
        """POST /s/ID/drop."""
        await self._bench.drop(request.scope["session"], self._subject(request))
        return JSONResponse({"location": "/"})

    @_refusing
    async def start(self, request: Request) -> Response:
        """POST /s/ID/jobs/KIND."""
        subject, kind = self._subject(request), request.path_params["kind"]
        job = self._bench.start(request.scope["session"], subject, kind, await self._form(request))
        page = {
            "attack": "/attack#set",
            "backdoors": "/attack#backdoors",
            "evaluate": "/defend#set",
            "scan": "/poison#scan",
            "steal": "/steal#steal",
            "calibrate": "/take#bundle",
        }.get(kind, "")
        return JSONResponse({"location": f"/s/{subject.id}{page}", "job": job.id})

    @_refusing
    async def ask(self, request: Request) -> Response:
        """POST /s/ID/ask/TASK."""
        return JSONResponse(await self._bench.ask(request.path_params["task"], self._subject(request), await self._form(request)))

    @_refusing
    async def cancel(self, request: Request) -> Response:
        """POST /jobs/ID/cancel."""
        job = self._job(request)
        await self._bench.queue.cancel(job)
        return JSONResponse({"location": f"/jobs/{job.id}"})

    @_refusing
    async def try_bundle(self, request: Request) -> Response:
        """POST /jobs/ID/bundle: the bundle as a subject."""
        job = self._job(request)
        subject = self._bench.subject_of(job)
        if subject is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        made = self._bench.try_bundle(request.scope["session"], subject, job)
        return JSONResponse({"location": f"/s/{made.id}/defend"})

    @_refusing
    async def mark(self, request: Request) -> Response:
        """POST /jobs/ID/mark: whether a sample is poison."""
        return JSONResponse(self._bench.mark(self._job(request), await self._form(request)))

    @_refusing
    async def is_clean(self, request: Request) -> Response:
        """GET /jobs/ID/is_clean.npy."""
        headers = {"content-disposition": f'attachment; filename="{marks.IS_CLEAN}"'}
        return Response(self._bench.is_clean(self._job(request)), headers=headers, media_type="application/octet-stream")

    @_refusing
    async def sample(self, request: Request) -> Response:
        """GET /jobs/ID/samples/ROW.json."""
        return JSONResponse(self._bench.sample(self._job(request), request.path_params["row"]))

    @_refusing
    async def picture(self, request: Request) -> Response:
        """GET /jobs/ID/samples/ROW.png."""
        found = await run_in_threadpool(self._bench.picture, self._job(request), request.path_params["row"])
        return Response(found, media_type="image/png")

    @_refusing
    async def upload(self, request: Request) -> Response:
        """PUT /uploads/FIELD."""
        field, name = request.path_params["field"], request.query_params.get("name", "")
        try:
            given, safe = await self._bench.uploads.take(request.scope["session"], field, name, request.stream())
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        return JSONResponse({"given": given, "name": safe})

    def _page(self, template: str, **values: Any) -> Response:
        return HTMLResponse(
            self._pages.render(template, **{"subject": None, "step": "", "kinds": KINDS, "example_id": EXAMPLE} | values)
        )

    def _shown_scan(self, job: str, result: dict[str, Any], request: Request) -> ShownScan:
        try:
            return shown_scan(self._bench.queue.place(job), result, request.query_params)
        except Refused as failure:
            raise HTTPException(HTTPStatus.NOT_FOUND) from failure

    def _subject(self, request: Request) -> StoredSubject:
        found = self._bench.subject(request.scope["session"], request.path_params["id"])
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return found

    def _job(self, request: Request) -> LabJob:
        found = self._bench.state.job(request.scope["session"], request.path_params["id"])
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return found

    def _shown(self, job: LabJob | None) -> dict[str, Any] | None:
        """A job for a page or its script."""
        if job is None:
            return None
        now = time.time()
        left = time_left(job, now)
        what, done, of = job.progress[:3] or ("", 0, 0)
        return {
            "id": job.id,
            "kind": KINDS[job.kind],
            "subject": job.subject,
            "state": job.state,
            "over": job.is_over,
            "ahead": self._bench.state.ahead(job) if job.state == "queued" else 0,
            "what": what,
            "share": done / of if of else 0.0,
            "progress": f"{done:,} of {of:,}" if of else "",
            "left_s": left,
            "left": "" if left is None else f"about {duration(left)} left",
            "took": duration((job.ended or now) - job.started) if job.started else "",
            "sentence": sentence(str(job.told.get("sentence", ""))),
            "field": field_of(job.told),
            "proposal": job.told.get("proposal"),
        }

    async def _form(self, request: Request) -> dict[str, Any]:
        """A form as JSON. Raises: Refused: too long, or none."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._bench.limits.request_bytes:
                raise Refused("", "expected a shorter form")
        try:
            form = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            form = None
        if request.headers.get("content-type") != "application/json" or not isinstance(form, dict):
            raise Refused("", "expected a form as JSON")
        return form

    async def _http_error(self, request: Request, failure: Exception) -> Response:
        status = failure.status_code if isinstance(failure, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        if status == HTTPStatus.NOT_FOUND:
            return self.message(status, "Not here", _NOT_FOUND)
        return self.message(status, "Not like this", "This page is not asked for in this way.")

    async def _mistake(self, request: Request, failure: Exception) -> Response:
        return self.message(
            500, "A mistake of the lab", "Something failed that should not; the terminal of the lab has the lines to report."
        )
