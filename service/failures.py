"""What a failed step means for the requests in it: which problem they end with, and whether to try them one by one.

A classifier on a model server fails in ways that one in the process does not. What its server does to one call it does to the next: where
nobody answers, or not in time, running each request again would only take as long again for each. A bad answer may be due to one image.
"""

from __future__ import annotations

from models.errors import RemoteBadAnswer, RemoteTooSlow, RemoteUnreachable, remote_cause
from service.errors import ClassifierFailed, ClassifierTooSlow, ClassifierUnavailable, InternalError, Problem


def problem_of(failure: BaseException) -> Problem:
    """The problem that requests end with when a step raised this."""
    remote = remote_cause(failure)
    if isinstance(remote, RemoteUnreachable):
        problem: Problem = ClassifierUnavailable(remote.retry_after_s)
    elif isinstance(remote, RemoteTooSlow):
        problem = ClassifierTooSlow()
    else:
        problem = InternalError() if remote is None else ClassifierFailed()
    problem.__cause__ = failure
    return problem


def is_outage(failure: BaseException) -> bool:
    """Whether every request would fail alone as well, since the classifier's server is away, slow, or serves another model."""
    remote = remote_cause(failure)
    return remote is not None and not isinstance(remote, RemoteBadAnswer)


def said(failure: BaseException) -> str:
    """What the classifier's server did, or what was raised."""
    return str(remote_cause(failure) or failure)
