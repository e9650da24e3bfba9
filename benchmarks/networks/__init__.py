"""Sections about judging networks, on networks made by seed."""
