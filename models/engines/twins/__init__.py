"""Gradients for classifiers that have none: a differentiable twin, and what a classifier can be asked for with and without one."""
