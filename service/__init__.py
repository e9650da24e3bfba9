"""HTTP in, HTTP out: the BentoML service around a defended classifier."""

__version__ = "0.1.0"  # the only place: pyproject.toml reads it here, and a served Bento is not an installed package
