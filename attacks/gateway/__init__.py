"""A gateway over HTTP as a classifier to attack."""
