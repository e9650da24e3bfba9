"""Finding poisoned training data."""
