"""The lines of the audit log, one JSON object each; docs/events.md describes them and docs/audit_event.schema.json constrains them.

Never in a line: pixels, probabilities, a detector's scores or the model calls it spent, keys. The image is there as a keyed hash:

    image_hash = BLAKE2b-128(key, image rounded to uint8),   key = BLAKE2b-256(secret, person "hauberk.audit")

Equal images have equal hashes on every replica that shares the secret; without the secret nobody can try images until one fits.
Scores are an oracle for any reader of the log; an operator with the image and the secret gets them by deciding on the image again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import orjson

from defences.defended_classifier import Decisions
from models.classifier import Images
from service.edge.exchange import Source
from service.observing.mitre_atlas import REFUSALS, Atlas, of_defences

SCHEMA = 1
_PERSON = b"hauberk.audit"
_WHITE = np.float32(255)
_TOGETHER_BYTES = 8 << 20


@dataclass(frozen=True)
class Decided:
    """A request that was decided: a line an image. `images` float32 [n, h, w, c] in [0, 1]."""

    time: datetime
    sequence: int
    source: Source
    images: Images
    decisions: Decisions

    @property
    def count(self) -> int:
        """How many lines."""
        return len(self.images)


@dataclass(frozen=True)
class Told:
    """Anything else: one line with these members."""

    time: datetime
    sequence: int
    event: str
    members: dict[str, Any]
    count: int = 1


def audit_key(secret: bytes) -> bytes:
    """The key of the hashes: it gives nothing away of what keys the defences' randomness."""
    return hashlib.blake2b(digest_size=32, key=secret, person=_PERSON).digest()


def image_hashes(images: Images, key: bytes) -> list[str]:
    """32 hex digits an image [n, h, w, c]; images that round to the same uint8 picture share theirs."""
    rounded = np.rint(images * _WHITE).astype(np.uint8)
    return [hashlib.blake2b(picture.tobytes(), digest_size=16, key=key).hexdigest() for picture in rounded]


class Writer:
    """Turns records into lines.

    Args:
        writer: names this process's run; with the sequence number it names a line.
        secret: keys the hashes. labels: the classes' names.
    """

    def __init__(self, writer: str, *, secret: bytes, model: str, model_version: str, labels: Sequence[str]) -> None:
        self._key, self._labels = audit_key(secret), labels
        self._common = {"schema": SCHEMA, "writer": writer, "model": model, "model_version": model_version}

    def lines(self, *records: Decided | Told) -> Iterator[bytes]:
        """The lines of records."""
        hashes = self._hashes([record.images for record in records if isinstance(record, Decided)])
        for record in records:
            if isinstance(record, Told):
                yield self._line(record.event, record.time, record.sequence, record.members)
            else:
                yield from self._decisions(record, next(hashes))

    def _hashes(self, requests: Sequence[Images]) -> Iterator[list[str]]:
        """Those of each request. Small ones are rounded together: NumPy lets go of the interpreter in each call on an array, and to
        get it back from the busy threads of the server costs them more than the hashes do."""
        if sum(images.nbytes for images in requests) > _TOGETHER_BYTES:
            yield from (image_hashes(images, self._key) for images in requests)
        elif requests:
            together = iter(image_hashes(np.concatenate(requests), self._key))
            yield from (list(islice(together, len(images))) for images in requests)

    def _decisions(self, record: Decided, hashes: Sequence[str]) -> Iterator[bytes]:
        decisions, source = record.decisions, _members(record.source)
        found = _found(decisions)
        for row, (label, image_hash) in enumerate(zip(decisions.labels.tolist(), hashes, strict=True)):
            findings = [finding for finding, rows in found if rows[row]]
            members = {
                **source,
                "row": row,
                "rows": record.count,
                "outcome": "answered" if label >= 0 else "abstained",
                "label": self._labels[label] if label >= 0 else None,
                "findings": findings,
                "image_hash": image_hash,
                **_ids(of_defences(finding["defence"] for finding in findings)),
            }
            yield self._line("decision", record.time, record.sequence + row, members)

    def _line(self, event: str, time: datetime, sequence: int, members: dict[str, Any]) -> bytes:
        document = {"event": event, "time": time, "sequence": sequence, **self._common, **members}
        return orjson.dumps(document, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def refusal(source: Source, code: str, status: int, count: int) -> dict[str, Any]:
    """The members of a line about requests that were turned away with one of `REFUSALS`."""
    return {**_members(source), "code": code, "status": status, "count": count, **_ids(REFUSALS[code])}


def started(software: str, defences: Sequence[tuple[str, str]], *, secret_is_random: bool) -> dict[str, Any]:
    """The members of the line that lists the defences in force from now on, as (name, mode)."""
    described = [{"defence": name, "mode": mode, **_ids(of_defences([name]))} for name, mode in defences]
    return {"software": software, "defences": described, "secret_is_random": secret_is_random}


def _found(decisions: Decisions) -> list[tuple[dict[str, str], list[bool]]]:
    """What each detector would have refused, rows as a list."""
    detections = decisions.trace.detections
    return [({"defence": d.name, "mode": d.mode}, d.abstained.tolist()) for d in detections if d.abstained.any()]


def _members(source: Source) -> dict[str, Any]:
    return {"request_id": source.request_id, "client": source.client or None, "route": source.route}


def _ids(atlas: Atlas) -> dict[str, Any]:
    return {"mitigations": list(atlas.mitigations), "techniques": list(atlas.techniques)}
