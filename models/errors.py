"""The errors of the lowest layer; `defences/errors.py` shows the whole hierarchy."""


class HauberkError(Exception):
    """The base of all exceptions this project raises on purpose."""


class InvalidInput(HauberkError):
    """A value from a user or client is invalid; the message says what was expected, what was given, and what to do."""


class InvalidBundle(InvalidInput):
    """A bundle is missing, altered, incomplete or of another format."""
