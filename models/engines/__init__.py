"""What computes a classifier: one module a framework."""
