"""Attacks on a model's answers: copies of the model (extraction) and membership of its training data."""
