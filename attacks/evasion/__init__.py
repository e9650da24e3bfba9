"""Adversarial examples."""
