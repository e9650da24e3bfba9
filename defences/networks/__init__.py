"""Judging a network by itself, without the data it was trained on."""
