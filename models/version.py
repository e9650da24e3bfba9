"""The version of Hauberk: the only place. pyproject.toml reads it here, and a served Bento is not an installed package."""

__version__ = "0.1.0"
