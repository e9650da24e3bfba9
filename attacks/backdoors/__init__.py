"""Poisoned training data and its triggers."""
