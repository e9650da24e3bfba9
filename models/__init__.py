"""Classifiers: protocols, engines that run them, bundles, data sets and training."""
