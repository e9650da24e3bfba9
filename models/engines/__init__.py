"""Engines that run classifiers, one module per framework."""
