"""Adversarial examples: white-box, black-box and adaptive attacks on a classifier's decision."""
