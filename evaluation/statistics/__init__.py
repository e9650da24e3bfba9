"""Intervals and receiver operating characteristics."""
