"""The tables of an evaluation, one module each."""
