"""The defences: pure NumPy and Numba. Nothing in here imports BentoML, HTTP, metrics or a deep-learning framework."""
