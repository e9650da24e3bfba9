"""Bytes to images and decisions to bytes, one body format a module."""
