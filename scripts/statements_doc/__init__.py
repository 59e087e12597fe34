"""Writes docs/statements.md from the types, their docstrings and examples that are made here."""
