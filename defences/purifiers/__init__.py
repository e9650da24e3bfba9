"""Preprocessors: images in, images out."""
