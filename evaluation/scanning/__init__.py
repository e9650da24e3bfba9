"""Scanning training data for poison, from files to report."""
