"""Confidence intervals and receiver operating characteristics."""
