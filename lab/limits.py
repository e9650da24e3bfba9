"""The bounds of everything that a visitor of the lab can make it hold, run or keep."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LabLimits:
    """Bounds of a lab.

    Attributes:
        upload_bytes: of one uploaded file.
        session_bytes: of all files of one session.
        disk_left_bytes: what an upload has to leave free on the disk.
        still_seconds: how long an upload may wait for its next bytes.
        unpacked_bytes, unpacked_files: what a zip of pictures may unpack to.
        request_bytes: of a request that is no upload.
        sessions, subjects, queued: of the lab, of a session, and of jobs that wait.
        log_bytes: of a job's log that is kept.
        job_seconds, worker_bytes: time and resident memory of a job's worker.
        answer_seconds, idle_seconds: of the warm worker: for one answer, and until it ends when nobody asks.
        keep_seconds: how long uploads, jobs and sessions are kept.
    """

    upload_bytes: int = 1024 * _MIB
    session_bytes: int = 4096 * _MIB
    disk_left_bytes: int = 256 * _MIB
    still_seconds: float = 60.0
    unpacked_bytes: int = 1024 * _MIB
    unpacked_files: int = 100_000
    request_bytes: int = 64 << 10
    sessions: int = 1000
    subjects: int = 50
    queued: int = 20
    log_bytes: int = 256 << 10
    job_seconds: float = 3600.0
    worker_bytes: int = 6144 * _MIB
    answer_seconds: float = 60.0
    idle_seconds: float = 600.0
    keep_seconds: float = 7 * 86400.0
