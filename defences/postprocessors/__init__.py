"""Postprocessors: probabilities in, probabilities out."""
