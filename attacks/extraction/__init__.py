"""Copying a model, and telling its training data, from its answers."""
