"""The version of Hauberk, stated here only: pyproject.toml reads it, and a served Bento has no package metadata."""

__version__ = "0.1.0"
