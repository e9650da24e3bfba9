"""Detection, removal and relabelling of poisoned training data."""
