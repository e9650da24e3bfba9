"""Adversarial examples that detectors of evasion are trained on."""
