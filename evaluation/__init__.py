"""Honest evaluation: the tables that decide whether a defence is worth its cost."""
