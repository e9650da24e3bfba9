"""Adversaries, offline: what the defences are tested against."""
