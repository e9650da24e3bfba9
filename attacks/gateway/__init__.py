"""A running gateway, over HTTP, as a classifier to attack."""
