"""Detectors: which images to refuse."""
