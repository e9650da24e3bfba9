"""Defences and attacks beside ART."""
