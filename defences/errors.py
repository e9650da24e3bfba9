"""What can go wrong below the service, each class one sentence saying when.

HauberkError
├── StageFailure             a stage of the data path raised: the request fails, no defence is skipped
├── RemoteFailure            a model server gave no answer that can be used
│   ├── RemoteUnreachable   no connection, a lost one, or it says that it cannot answer now; or its circuit is open
│   ├── RemoteTooSlow       no answer in time
│   ├── RemoteBadAnswer     something else than class scores for the images
│   └── RemoteIsAnother     it serves another model than the one the defences were calibrated for
└── InvalidInput            input of a person or a client cannot be used; the message says what was expected and what to do
    ├── InvalidParameter    a defence was asked for with a parameter outside its domain
    ├── InvalidBundle       a bundle is missing, altered, incomplete, or of another format
    └── CannotBeFitted      a detector that this classifier cannot have; calibration leaves it out, and fits the others
"""

from models.errors import HauberkError, InvalidBundle, InvalidInput

__all__ = ["CannotBeFitted", "HauberkError", "InvalidBundle", "InvalidInput", "InvalidParameter", "StageFailure"]


class InvalidParameter(InvalidInput, ValueError):
    """A defence was asked for with a parameter outside its domain."""


class CannotBeFitted(InvalidInput):
    """A detector that this classifier cannot have, and why; the others can be fitted all the same."""


class StageFailure(HauberkError):
    """A stage of the data path raised; `stage` says which, the cause is chained. The request fails, no defence is skipped."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"stage {stage} failed")
        self.stage = stage
