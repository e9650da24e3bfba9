"""Fits of defences on clean images, before serving."""
