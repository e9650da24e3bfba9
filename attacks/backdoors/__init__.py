"""Backdoors: triggers, and training data poisoned with them."""
