"""Measurements of backdoors and of what is done against them."""
