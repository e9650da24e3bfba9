"""Random and mutated requests."""
