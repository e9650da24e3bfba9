"""The errors of the lowest layer; `defences/errors.py` shows the whole hierarchy."""


class HauberkError(Exception):
    """The base of all exceptions this project raises on purpose."""


class InvalidInput(HauberkError):
    """A value from a user or client is invalid; the message says what was expected, what was given, and what to do."""


class InvalidBundle(InvalidInput):
    """A bundle is missing, altered, incomplete or of another format."""


INSTALL_TENSORFLOW = 'pip install "hauberk[tensorflow]"'
"""What brings TensorFlow, as messages say it."""


class RemoteFailure(HauberkError):
    """A model server gave no answer that can be used; the message says what was asked for and what came."""


class RemoteUnreachable(RemoteFailure):
    """No connection to the model server, a lost one, or one that says it cannot answer now; or its circuit is open.

    Attributes:
        retry_after_s: when to ask again, where that is known.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RemoteTooSlow(RemoteFailure):
    """The model server did not answer in the time there was."""


class RemoteBadAnswer(RemoteFailure):
    """The model server answered something else than class scores for the images it was sent."""


class RemoteIsAnother(RemoteFailure):
    """The model server serves another model than the one the defences were calibrated for."""


def remote_cause(failure: BaseException | None) -> RemoteFailure | None:
    """The failure of a model server that led to this one, however many stages it went through; None when it was something else."""
    while failure is not None and not isinstance(failure, RemoteFailure):
        failure = failure.__cause__
    return failure
