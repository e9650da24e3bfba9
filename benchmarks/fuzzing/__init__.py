"""Random and mutated requests against a running server."""
