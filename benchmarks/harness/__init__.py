"""Servers to measure, load for them, and peers."""
