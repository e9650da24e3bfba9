"""Attacking a gateway over HTTP, from a plan to a report."""
