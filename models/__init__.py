"""Classifiers and where they come from: protocols, adapters, bundles, data sets, training."""
