"""Backdoors against the detectors that look for them, on copies that are made for it."""
