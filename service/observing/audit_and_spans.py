"""The records of requests beyond metrics and logs: the audit log and trace spans, each only when a setting asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.observing import audit_file

if TYPE_CHECKING:
    from models.bundle import Bundle
    from service.observing.audit_log import AuditLog, Counts
    from service.observing.tracing import Tracer
    from service.settings import Settings


@dataclass(frozen=True)
class Telemetry:
    """The audit log and the tracer, each None when it is off."""

    audit: AuditLog | None = None
    tracer: Tracer | None = None

    def started(self, software: str, defences: Sequence[tuple[str, str]], *, secret_is_random: bool) -> None:
        """The service takes requests now, behind these defences, (name, mode)."""
        if self.audit is not None:
            self.audit.started(software, defences, secret_is_random=secret_is_random)

    async def close(self, timeout_s: float) -> None:
        """Write and send the records that still wait, for at most so long each."""
        if self.audit is not None:
            await self.audit.close(timeout_s)
        if self.tracer is not None:  # a collector that does not answer must not keep the process from ending
            sending = threading.Thread(target=self.tracer.close, name="hauberk-spans", daemon=True)
            sending.start()
            await asyncio.get_running_loop().run_in_executor(None, sending.join, timeout_s)


def check(settings: Settings) -> None:
    """Check before a server is started that both can work as the settings ask. Raises: InvalidInput."""
    if settings.audit_file is not None:
        audit_file.check(settings.audit_file)
    if settings.tracing:
        from service.observing import tracing

        tracing.check()


def begin(settings: Settings, bundle: Bundle, counts: Counts, *, software: str, worker: int) -> Telemetry:
    """Start what the settings ask for. Raises: InvalidInput."""
    tracer = audit = None
    if settings.tracing:
        from service.observing import tracing

        tracer = tracing.start(software=software, model=bundle.name, model_version=bundle.version)
    if settings.audit_file is not None:
        from service.observing.audit_log import AuditLog

        file = audit_file.AuditFile(
            audit_file.of_worker(settings.audit_file, worker), bytes_at_most=settings.audit_bytes, files=settings.audit_files
        )
        audit = AuditLog(
            file, counts, secret=settings.secret, model=bundle.name, model_version=bundle.version, labels=bundle.labels
        )
    return Telemetry(audit, tracer)
